# SPDX-License-Identifier: Apache-2.0
"""The cells of the comparison of students, as `students.yaml` has them, and where each one lies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cells import TEACHER, StudyPlace

from flashwam.recipe.layers import read_yaml
from flashwam.recipe.load import find_recipe, load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.report.routes import Order
from flashwam.run.folder import RunFolder
from flashwam.system.json_file import build
from flashwam.wam.files import files_of

FILE = Path(__file__).with_name("students.yaml")
MODALITY = " with auxiliary"
RATE = "_lr_"
"""In the names of cells that differ from another in their learning rate alone."""
INIT, PRETRAINED = "distill.init", "wam.pretrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """One cell of the comparison.

    Args:
        recipe: Its recipe.
        start: The cell, or the teacher, that it is made from; None for data alone.
        field: The recipe's field that names that folder.
        nfe: Settings it is driven at; none for a stage that is not driven.
        auxiliary: Whether it is also driven with the modality of its training.
        settings: What differs from the recipe.
    """

    recipe: str
    start: str | None = None
    field: str = INIT
    nfe: tuple[str, ...] = ()
    auxiliary: bool = False
    settings: tuple[str, ...] = ()


_TOLD = read_yaml(FILE.read_bytes(), str(FILE))
TIERS: Mapping[str, Mapping[str, Student]] = {
    tier: {name: build(FILE, Student, cell) for name, cell in cells.items()}
    for tier, cells in _TOLD["students"].items()
}
"""Name of a tier -> its students, in the order in which they are made."""
STUDENTS = {name: cell for cells in TIERS.values() for name, cell in cells.items()}
CONSISTENCY = tuple(_TOLD["consistency"])
CONTROLS: Mapping[str, tuple[str, ...]] = {family: tuple(steps) for family, steps in _TOLD["controls"].items()}
"""Family -> steps at which its teacher is driven beside its own and one."""
ORDERS = tuple(build(FILE, Order, order) for order in _TOLD["orders"])


def _routes() -> dict[str, tuple[str, ...]]:
    shown = [name for name in STUDENTS if RATE not in name]
    routes = {TEACHER: (TEACHER,), "consistency distillation": CONSISTENCY}
    for route, told in _TOLD["routes"].items():
        head, starts = told["head"], tuple(told["names"])
        routes[route] = (head, *(name for name in shown if name.startswith(starts) and name != head))
    return {**routes, "modality there too": tuple(name + MODALITY for name, cell in STUDENTS.items() if cell.auxiliary)}


ROUTES = _routes()
"""Route -> its runs, the one that stands for it first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(StudyPlace):
    """Folders of everything; a cell of the other family's recipes stands for the one of the same name.

    Args:
        benchmark: Of the benchmark whose data, teacher and consistency students are used.
    """

    MADE_AGAIN: ClassVar[tuple[str, ...]] = ()

    benchmark: Path

    @property
    def teacher(self) -> Path:
        return RunFolder(self.benchmark / "runs" / TEACHER).result("teacher")

    def benchmark_run(self, name: str, seed: int) -> Path:
        """A student of the benchmark, or the teacher."""
        return self.benchmark / "runs" / (name if seed == 0 or name == TEACHER else f"{name}_seed{seed}")

    def path(self, recipe: str) -> str:
        """The recipe for this family's small model."""
        folder, _, name = recipe.partition("/")
        return f"{files_of(self.family).miniature}/{name}" if folder == "metaworld" else recipe

    def has(self, name: str) -> bool:
        """Tells whether there is a recipe of this cell for the family."""
        try:
            find_recipe(self.path(STUDENTS[name].recipe))
        except FileNotFoundError:
            return False
        return True

    def made(self) -> Iterator[tuple[str, int]]:
        """Students, with their seeds, that have an evaluation."""
        for name, cell in STUDENTS.items():
            for seed in range(10):
                if cell.nfe and RunFolder(self.run(name, seed)).evaluation_files:
                    yield name, seed

    def recipe(self, name: str, seed: int, more: Sequence[str] = ()) -> Recipe:
        cell = STUDENTS[name]
        settings = [f"data.root={self.benchmark / 'data'}", f"seed={seed}", f"name={name}"]
        if name.startswith("foresight") or cell.field == PRETRAINED:
            settings.append(f"wam.pretrained={self.teacher}")
        else:
            settings.append(f"autoencoder.pretrained={self.teacher / 'vae'}")
        if cell.start is not None:
            start = self.teacher if cell.start == TEACHER else self.run(cell.start, seed) / TEACHER
            settings.append(f"{cell.field}={start}")
        return load_recipe(self.path(cell.recipe), [*settings, *cell.settings, *more])


def with_starts(names: Iterable[str]) -> set[str]:
    """The cells, and those that they are made from."""
    wanted = set(names)
    while more := {STUDENTS[name].start for name in wanted} - wanted - {None, TEACHER}:
        wanted |= more
    return wanted
