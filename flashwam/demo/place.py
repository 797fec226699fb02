# SPDX-License-Identifier: Apache-2.0
"""The places of a demo's files, and the recipe of each of its runs."""

from dataclasses import dataclass
from pathlib import Path

from flashwam.demo.presets import Preset
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import Recipe, WamConfig
from flashwam.run.folder import RunFolder
from flashwam.system.errors import InputError
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import ASSETS
from flashwam.wam.files import FAMILY_FILES, FamilyFiles, files_of

__all__ = ["DEFAULT_FAMILY", "Place"]

DEFAULT_FAMILY = WamConfig().family


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The places of a preset's files; knows every run's folder and recipe.

    Args:
        preset: How much of everything.
        out: Folder of everything.
        family: Of the model.
        data: Folder of the demonstrations; one of its own in `out` if None.
    """

    preset: Preset
    out: Path
    family: str = DEFAULT_FAMILY
    data: Path | None = None

    def __post_init__(self) -> None:
        # Refuses a family that has none.
        _ = self.files

    @property
    def files(self) -> FamilyFiles:
        """The family's knowledge of files, its miniature among it."""
        files = files_of(self.family)
        if files is None or files.miniature is None:
            every = {name: files_of(name) for name in FAMILY_FILES}
            known = sorted(name for name, each in every.items() if each is not None and each.miniature is not None)
            raise InputError(f"there is no small model of family {self.family!r} to show; expected one of {known}")
        return files

    @property
    def shipped_teacher(self) -> Path | None:
        """A trained teacher that the package brings along."""
        name = self.files.miniature_teacher
        return None if name is None else ASSETS / name

    @property
    def imported(self) -> tuple[str, ...]:
        """Modules that nearly every job imports late; no simulator, whose GL context a fork would not survive."""
        return (type(self.files).__module__, "diffusers.models.autoencoders", "matplotlib.image")

    @property
    def nfe(self) -> tuple[str, ...]:
        """Settings every student is driven at."""
        return self.preset.nfe or tuple(self.recipe(self.preset.methods[0]).evaluate.nfe)

    @property
    def teacher_nfe(self) -> tuple[str, ...]:
        """Settings the teacher is driven at: its own, one step, and those of its students or of its recipe."""
        more = self.preset.nfe or self.recipe("teacher").evaluate.nfe
        return tuple(dict.fromkeys(("full", "1v/1a", *more)))

    @property
    def teacher_run(self) -> Path:
        return self.out / "runs" / "teacher"

    @property
    def teacher(self) -> Path:
        return RunFolder(self.teacher_run).result("teacher")

    @property
    def data_root(self) -> Path:
        return self.out / "data" if self.data is None else self.data

    def rate_file(self, method: str) -> Path:
        return self.out / "rates" / f"{method.partition('@')[0]}.json"

    def run(self, method: str, seed: int, rate: float | None = None) -> Path:
        if rate is not None:
            return self.out / "rates" / f"{method}_{rate:g}"
        method = method.replace("@", "_")
        return self.out / "runs" / (method if seed == 0 else f"{method}_seed{seed}")

    def recipe(self, method: str, *, seed: int = 0, rate: float | None = None) -> Recipe:
        method, _, steps = method.partition("@")
        name = f"{method}_{steps}" if steps else method
        overrides = [*self.preset.overrides, f"data.root={self.data_root}", f"seed={seed}", f"name={name}"]
        if method != "teacher":
            overrides += [*self.preset.distill, f"wam.pretrained={self.teacher}"]
            # The budget's curve is read off one run; the others need no copies.
            if self.preset.curve and seed == 0 and not steps:
                overrides.append(f"distill.keep_steps=[{','.join(map(str, self.preset.curve))}]")
            if rate is not None:
                overrides.append(f"distill.lr={rate:g}")
            elif self.rate_file(method).is_file():
                overrides.append(f"distill.lr={read_mapping(self.rate_file(method))['lr']:g}")
            overrides += self.preset.own.get(method, ())
            if steps:
                overrides.append(f"distill.steps={steps}")
        return load_recipe(f"{self.files.miniature}/{method}", overrides)

    @property
    def evaluated(self) -> list[Path]:
        """Runs with at least one evaluation."""
        return sorted(folder for folder in (self.out / "runs").glob("*") if RunFolder(folder).evaluation_files)
