# SPDX-License-Identifier: Apache-2.0
"""The cells of the comparison of one-step students with their teacher, as `one_step.yaml` has them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cells import TEACHER, StudyPlace

from flashwam.core.temperature import Temperature
from flashwam.recipe.layers import read_yaml
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.run.folder import RunFolder
from flashwam.system.json_file import build, read_mapping
from flashwam.wam.files import files_of

FILE = Path(__file__).with_name("one_step.yaml")
SECOND_STAGE = 1000
"""Seeds of trainings that go on from a student are so much higher, for draws that it has not learnt from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """One cell of the comparison; `one_step.yaml` says what the fields mean."""

    recipe: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    search: bool = False
    rate: str | None = None
    start: str | None = None
    record: int = 0
    again: int = 0
    samplers: tuple[str, ...] = ()
    cooler: tuple[Temperature, ...] = ()
    families: tuple[str, ...] = ()
    guided: bool = False


_TOLD = read_yaml(FILE.read_bytes(), str(FILE))
STUDENTS: Mapping[str, Student] = {name: build(FILE, Student, cell) for name, cell in _TOLD["students"].items()}
"""In the order in which they are made."""
TEACHER_SEEDS: tuple[int, ...] = tuple(_TOLD["teacher"]["seeds"])
TEACHER_NFE: Mapping[str, tuple[str, ...]] = {name: tuple(nfe) for name, nfe in _TOLD["teacher"]["nfe"].items()}
_COOLER = _TOLD["teacher"]["cooler"]
COOLER_SEEDS: tuple[int, ...] = tuple(_COOLER["seeds"])
TEACHER_COOLER: Mapping[str, Mapping[str, tuple[Temperature, ...]]] = {
    name: {nfe: tuple(temperatures) for nfe, temperatures in _COOLER[name].items()} for name in TEACHER_NFE
}
"""Family -> steps -> further temperatures at which the teacher is driven."""
GUIDANCE: float = _TOLD["teacher"]["guidance"]
"""Scale of the video's guidance at which the teacher of the guided cells is driven."""
GUIDED = "teacher_guided"
CROSSED: tuple[str, ...] = tuple(_TOLD["cross"])
"""Students whose video is crossed with each other's actions."""
DIFFERENCES: tuple[tuple[str, str], ...] = tuple((one, other) for one, other in _TOLD["differences"])
"""Models that are held against each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(StudyPlace):
    """Folders of everything, and every run's recipe."""

    MADE_AGAIN: ClassVar[tuple[str, ...]] = (*StudyPlace.MADE_AGAIN, GUIDED)

    def has(self, name: str) -> bool:
        """Tells whether the family has a cell."""
        return not STUDENTS[name].families or self.family in STUDENTS[name].families

    @property
    def guided_teacher(self) -> Path:
        """Folder of the teacher as one that is driven with guidance."""
        return RunFolder(self.run(GUIDED, 0)).result(TEACHER)

    def evaluated(self, *, guided: bool) -> list[Path]:
        """Runs with an evaluation, of the cells with a guided teacher or of the others."""
        apart = {self.run(name, seed).name for name, cell in STUDENTS.items() if cell.guided for seed in cell.seeds}
        return [run for run in self.demo.evaluated if (run.name in {GUIDED, *apart}) == guided]

    def attempt(self, name: str, rate: float, seed: int) -> Path:
        """A run of the search for a cell's learning rate."""
        return self.out / "search" / f"{name}_{rate:g}_seed{seed}"

    def recording(self, name: str, seed: int) -> Path:
        """Folder of a student's own episodes."""
        return self.out / "recorded" / f"{name}_seed{seed}"

    def rate_file(self, name: str) -> Path:
        return self.out / "rates" / f"{name}.json"

    def tried_file(self, name: str) -> Path:
        """Errors of what the search for a cell's learning rate has tried so far."""
        return self.out / "tried" / f"{name}.json"

    def recipe(self, name: str, seed: int, rate: float | None = None) -> Recipe:
        """A cell's recipe, at the learning rate that was searched for it where one was."""
        cell, demo = STUDENTS[name], self.demo
        own = [
            f"data.root={demo.data_root}",
            f"wam.pretrained={self.guided_teacher if cell.guided else demo.teacher}",
            f"seed={seed if cell.start is None else SECOND_STAGE + seed}",
            f"name={name}",
            *cell.settings,
        ]
        if cell.guided:
            own.append(f"streams.video.guidance_scale={GUIDANCE:g}")
        if cell.start is not None:
            own.append(f"distill.init={RunFolder(self.run(cell.start, seed)).result('student')}")
        if cell.record:
            own.append(f"distill.options.histories={self.recording(cell.start, seed)}")
        if rate is None and (source := name if cell.search else cell.rate) is not None:
            rate = read_mapping(self.rate_file(source))["lr"]
        if rate is not None:
            own.append(f"distill.lr={rate:g}")
        return load_recipe(f"{files_of(self.family).miniature}/{cell.recipe}", [*own, *self.settings])


def draws_from(recipe: Recipe) -> Temperature | None:
    """The temperature at which its teacher makes the draws that a student learns; None where that is everybody's 1."""
    told = {name: spec.teacher_temperature for name, spec in recipe.streams.items()}
    if len(every := set(told.values())) == 1:
        return None if every == {1} else every.pop()
    return {name: value for name, value in told.items() if value != 1}


def with_starts(names: Iterable[str]) -> list[str]:
    """The cells, and those that they go on from, in their order."""
    wanted = set(names)
    while more := {STUDENTS[name].start for name in wanted} - wanted - {None}:
        wanted |= more
    return [name for name in STUDENTS if name in wanted]
