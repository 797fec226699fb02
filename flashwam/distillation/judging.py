# SPDX-License-Identifier: Apache-2.0
"""A model as it is measured while it is trained, and the best one so far."""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils import broadcast

from flashwam.core.measures import is_better
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods.base import Method
from flashwam.distillation.metrics import MetricsLog
from flashwam.distillation.setup import Setup, Source
from flashwam.distillation.strategy import Strategy
from flashwam.recipe.sections import LoopConfig
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.run.inputs import made_from_the_same
from flashwam.system.errors import InputError
from flashwam.system.json_file import read_mapping, shown
from flashwam.wam.base import WorldActionModel

__all__ = ["Judge", "Judgement", "Judging", "MeasuredApart"]

logger = logging.getLogger(__name__)

_SAID = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The measurements of one moment.

    Args:
        measures: Name -> value, the most telling ones first.
        undecided: Measures that this moment has none of, and another one can have: name -> why.
        pictures: Name -> PNG.
    """

    measures: Mapping[str, float] = field(default_factory=dict)
    undecided: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)


class Judge(Protocol):
    """Measures a model; it changes neither the model nor what is drawn after it."""

    def __call__(
        self, model: WorldActionModel, streams: Mapping[str, StreamSpec], *, place: Path, tells: bool
    ) -> Judgement:
        """Measures.

        Args:
            model: As it is now, in evaluation mode.
            streams: The way in which it is trained.
            place: Path that names of pictures begin with.
            tells: False in all processes but one: they draw alike, because all hold parts of the model, and what they
                return is not looked at.
        """


@runtime_checkable
class MeasuredApart(Protocol):
    """A method of which some trainings make a model that draws nothing yet, and are measured by something else."""

    @classmethod
    def measured_apart(cls, options: Mapping[str, Any]) -> bool:
        """Tells whether a training with these options of a recipe is one of them."""

    def held_out_measures(
        self, windows: Source, setup: Setup, *, count: int
    ) -> Callable[[WorldActionModel], Mapping[str, float]]:
        """Makes what measures its model; called after `Method.source`.

        Args:
            windows: Of held-out episodes; the draws 0 to `count` - 1 are measured on.
            setup: As for `Method.source`.
            count: At least 1.

        Returns:
            Model, in evaluation mode -> name -> value.
        """


class Judging:
    """The measurements of one training, and the best model so far.

    Args:
        judge: Measures.
        loop: Says when, and by which measure one model is better than another.
        run: The run's folder; the best model lies in its `best`.
        method: Its roles and streams.
        strategy: The way in which processes share the work.
    """

    def __init__(self, judge: Judge, loop: LoopConfig, *, run: RunFolder, method: Method, strategy: Strategy) -> None:
        self._judge, self._loop, self._run, self._method, self._strategy = judge, loop, run, method, strategy
        self._best = None if loop.keep_best is None else _Best(run, loop.keep_best)

    def begin(self, first: int, info: Mapping[str, Any]) -> None:
        """Called before the first step of a training that goes on after `first` of them, with what is to be said of its
        model."""
        if self._best is not None:
            self._best.begin(first, info)

    def due(self, step: int) -> bool:
        """Tells whether the model is measured after so many steps."""
        judge = self._loop.judge
        return judge is not None and (step % judge.every == 0 or step == self._loop.steps)

    def measure(self, step: int, model: WorldActionModel, log: MetricsLog | None) -> dict[str, Any] | None:
        """Measures a role's model and logs what comes out; all processes call it.

        Args:
            step: Steps that it has done.
            model: As it would be the result.
            log: Of the main process.

        Returns:
            What the folder of the best model is to say of it, where it is the best so far; None otherwise.

        Raises:
            ValueError: The measure of `keep_best` is not among what was measured when the training began.
        """
        accelerator, training = self._strategy.accelerator, model.training
        with ExitStack() as held:
            # What a training draws does not depend on whether it is looked at.
            held.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
            held.enter_context(self._method.roles.gathered(model))
            held.enter_context(self._strategy.autocast())
            held.enter_context(torch.no_grad())
            held.callback(model.train, training)
            model.eval()
            place = self._run.judged / f"step_{step}"
            told = self._judge(model, self._method.streams, place=place, tells=accelerator.is_main_process)
        if log is not None:
            log.write(step, {f"judged/{name}": value for name, value in told.measures.items()})
            log.show(step, {f"judged/{name}": path for name, path in told.pictures.items()})
            first = list(told.measures.items())[:_SAID]
            logger.info("step %d judged: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in first))
        better = self._best is not None and log is not None and self._best.improves(step, told)
        if accelerator.num_processes > 1:
            better = bool(broadcast(torch.tensor([int(better)], device=accelerator.device))[0])
        return {"best": self._best.told} if better and self._best is not None else None

    def say_best(self) -> None:
        """Says in the log which model was the best."""
        if (best := self._best) is None:
            return
        if best.step is None:
            logger.warning("no step could be the best by %s: there is no %s", best.measure, best.folder)
        else:
            told = (best.measure, best.step, best.value, best.folder)
            logger.info("the best by %s is that of step %s (%.4g): %s", *told)


class _Best:
    """The best model so far by one measure.

    Args:
        run: The run's folder.
        measure: The measure's name.
    """

    def __init__(self, run: RunFolder, measure: str) -> None:
        self.folder, self.measure = run.best, measure
        self.step: int | None = None
        self.value = math.nan

    def begin(self, first: int, info: Mapping[str, Any]) -> None:
        """Reads which model was the best so far; one of a later step and of other inputs is none.

        Raises:
            ValueError: Its file is damaged.
        """
        path = self.folder / INFO_FILE
        held = read_mapping(path) if path.is_file() else {}
        told: Any = held.get("best")
        if not isinstance(told, dict) or told.get("measure") != self.measure:
            return
        step, value = held.get("steps"), told.get("value")
        if not isinstance(step, int) or not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(
                f"{path} must say after how many steps its model was the best, and its value; got steps "
                f"{shown(step)}, value {shown(value)}: put the file back as it was, or delete {self.folder}"
            )
        if 0 < step <= first or made_from_the_same(self.folder, info):
            self.step, self.value = step, float(value)

    def improves(self, step: int, judgement: Judgement) -> bool:
        """Takes note of a step's measures; tells whether it is the best so far.

        A run that goes on from before its best comes to that step again, which is the same then.
        """
        measures = judgement.measures
        if self.measure not in measures:
            why = judgement.undecided.get(self.measure)
            if why is None and step == 0:
                raise InputError(
                    f"keep_best: {self.measure} was not measured; measured were {', '.join(sorted(measures))}"
                )
            logger.warning("step %d cannot be the best by %s: %s", step, self.measure, why or "it was not measured")
            return False
        value = measures[self.measure]
        if not math.isfinite(value):
            logger.warning("step %d cannot be the best by %s, which is %s", step, self.measure, value)
            return False
        if not self._is_beaten(step, value):
            return False
        self.step, self.value = step, value
        return True

    def _is_beaten(self, step: int, value: float) -> bool:
        """Tells whether the best so far is no longer; of equals the later one is, which has learnt for longer."""
        if self.step is None:
            return True
        if step == self.step or is_better(self.measure, self.value, value):
            return False
        return step > self.step or is_better(self.measure, value, self.value)

    @property
    def told(self) -> dict[str, Any]:
        """The line of the model's folder."""
        return {"measure": self.measure, "value": self.value}
