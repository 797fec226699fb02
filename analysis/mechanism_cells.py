# SPDX-License-Identifier: Apache-2.0
"""The cells of the study that takes a consistency function apart, and where each one lies.

A consistency function f = a x + b v fixes the weight |b| of every level's gradient, and beside it the start, which is f
at the teacher's weights, and the reach, how far f moves with the network's answer. A cell takes start and reach from
one function and the gradient weight from another.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from cells import StudyPlace
from searching import FIRST_RATES

from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.run.folder import RunFolder
from flashwam.system.json_file import read_mapping

FUNCTIONS = ("linear", "lcm")
FOUR = tuple((start, weight) for weight in FUNCTIONS for start in FUNCTIONS)
"""Start and gradient weight of the four cells; the first is `linear` as it is, the last `lcm`."""
EULER = "linear"
"""The function whose f is a plain Euler step to the data: at the teacher's weights the teacher's own single step."""
VARIED = {"action": ("action",), "both": ("video", "action")}
"""Name -> the streams whose function changes; the others have `linear`."""
TINY, SEARCHED = "tiny", "searched"
TINY_RATE = 1e-4
LONG = 1000
"""Trainings of more steps than these have one seed, and the learning rate that was searched for `SHORT` ones."""
SHORT = 400
HORIZONS = 10
"""Times that the horizon of the targets' EMA goes into a training, as published: 200 of 2,000 steps."""
FEW_ANCHORS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One of the four, at one budget.

    Args:
        start: The function that the student is trained and sampled with, and so starts as.
        weight: The function whose |b| weighs the gradient of every level.
        varied: Key of `VARIED`.
        anchors: Points of the jump grid.
        steps: Of the training.
        horizons: Times that the horizon of the targets' EMA goes into it.
    """

    start: str
    weight: str
    varied: str
    anchors: int
    steps: int
    horizons: int = HORIZONS

    @property
    def name(self) -> str:
        return f"{self.block}_{self.start}-start_{self.weight}-weight"

    @property
    def searched(self) -> "Cell":
        """The cell whose search gives its learning rate."""
        if self.horizons != HORIZONS:
            return replace(self, anchors=FEW_ANCHORS, steps=SHORT, horizons=HORIZONS)
        return replace(self, steps=SHORT) if self.steps > LONG else self

    @property
    def kinds(self) -> tuple[str, ...]:
        """Learning rates that it is trained with."""
        return (TINY, SEARCHED) if self.horizons == HORIZONS else (SEARCHED,)

    @property
    def block(self) -> str:
        """Name of the four that it is one of."""
        usual = f"{self.varied}_{self.anchors}-anchors_{self.steps}-steps"
        return usual if self.horizons == HORIZONS else f"{usual}_{self.horizons}-horizons"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The part of the study that is run.

    Args:
        varied: Keys of `VARIED`.
        anchors: Points of the jump grid.
        steps: Budgets.
        horizons: Of the targets' EMA, in a training.
        seeds: Of training and scenes; the first alone for budgets above `LONG`.
        rates: Learning rates that a search begins with.
        kinds: Of learning rates.
    """

    varied: tuple[str, ...] = ("action",)
    anchors: tuple[int, ...] = (2, 25)
    steps: tuple[int, ...] = (400, 4000)
    horizons: tuple[int, ...] = (HORIZONS,)
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = FIRST_RATES
    kinds: tuple[str, ...] = (TINY, SEARCHED)

    def blocks(self) -> Iterator[tuple[Cell, ...]]:
        """The four cells of every block, the short trainings first."""
        for steps, varied, anchors, horizons in product(sorted(self.steps), self.varied, self.anchors, self.horizons):
            same: dict[str, Any] = {"varied": varied, "anchors": anchors, "steps": steps, "horizons": horizons}
            yield tuple(Cell(start=start, weight=weight, **same) for start, weight in FOUR)

    def seeds_of(self, cell: Cell) -> tuple[int, ...]:
        """Seeds of a cell's trainings."""
        return self.seeds[:1] if cell.steps > LONG else self.seeds

    def searched_over(self, cell: Cell) -> tuple[int, ...]:
        """Seeds whose errors a search adds up."""
        return self.seeds_of(cell)[:2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(StudyPlace):
    """Folders of everything, and every run's recipe."""

    def rate_file(self, cell: Cell) -> Path:
        return self.out / "rates" / f"{cell.name}.json"

    def tried_file(self, cell: Cell) -> Path:
        return self.out / "tried" / f"{cell.name}.json"

    def run(self, cell: Cell, kind: str, seed: int) -> Path:
        name = f"{cell.name}_{kind}"
        return self.out / "runs" / (name if seed == 0 else f"{name}_seed{seed}")

    def untrained(self, cell: Cell) -> Path:
        """The model before the first step: a start by itself."""
        return RunFolder(self.run(cell, TINY, 0)).kept_step(0)

    def search(self, cell: Cell, rate: float, seed: int) -> Path:
        """A run of the search for a cell's learning rate."""
        return self.out / "search" / f"{cell.name}_{rate:g}_seed{seed}"

    def rate(self, cell: Cell, kind: str) -> float:
        """The learning rate, which a search must have found before for those that are searched."""
        return TINY_RATE if kind == TINY else read_mapping(self.rate_file(cell.searched))["lr"]

    def recipe(self, cell: Cell, kind: str, *, seed: int, rate: float) -> Recipe:
        """A cell's recipe; EMA, warm-up and logging in proportion to its budget, as published."""
        demo, streams = self.demo, VARIED[cell.varied]
        own = [
            *(f"streams.{name}.consistency={cell.start if name in streams else 'linear'}" for name in VARIED["both"]),
            *(f"streams.{name}.anchors={cell.anchors}" for name in VARIED["both"]),
            "streams.video.guidance=null",
            *(f"distill.options.weight_as.{name}={cell.weight}" for name in streams),
            f"distill.steps={cell.steps}",
            f"distill.lr={rate:g}",
            "distill.lr_decay=cosine",
            # 5 and, usually, 10 % of the budget: the paper's 100 and 200 of 2,000 steps.
            f"distill.warmup_steps={cell.steps // 20}",
            f"distill.ema_decay={max(0.0, 1 - cell.horizons / cell.steps):g}",
            f"distill.log_every={max(1, cell.steps // 40)}",
            f"distill.save_every={max(1, cell.steps // 4)}",
            f"distill.keep_steps={[0] if kind == TINY and seed == 0 else []}",
            "evaluate.open_loop_samples=192",
            f"data.root={demo.data_root}",
            f"wam.pretrained={demo.teacher}",
            f"seed={seed}",
            f"name={cell.name}_{kind}",
        ]
        return load_recipe("metaworld/distill", [*own, *self.settings])
