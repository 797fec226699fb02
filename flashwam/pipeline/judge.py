# SPDX-License-Identifier: Apache-2.0
"""Measures a model while it is trained: on held-out episodes, beside its teacher's draws, and in the simulator."""

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.scenes import JUDGED_SEED
from flashwam.core.steps import parse_nfe
from flashwam.core.streams import StreamSpec
from flashwam.data.codec import Codec
from flashwam.data.control_names import ControlNames
from flashwam.data.fingerprint import tensors_fingerprint, values_fingerprint
from flashwam.data.segments import NoEpisodesError
from flashwam.distillation.judging import Judgement
from flashwam.distillation.keep_best import MEASURES_OF_PICTURES, MEASURES_OF_WAYS, check_keep_best, is_measured_apart
from flashwam.distillation.methods import find_method
from flashwam.distillation.setup import Setup
from flashwam.evaluation.decoded import DecodedDraws, decoded_draws
from flashwam.evaluation.drawn_controls import drawn_controls, save_trajectories
from flashwam.evaluation.open_loop import open_loop_measures, window_draws
from flashwam.evaluation.pictures import find_pictures, save_strip
from flashwam.evaluation.reference import Chunks
from flashwam.evaluation.trajectories import Drawn, trajectory_measures, ways_taken
from flashwam.evaluation.windows import JUDGED_WINDOWS, Windows, find_windows, judged_draws
from flashwam.pipeline.norms import action_norm
from flashwam.recipe.sections import JudgeConfig, LoopConfig, Recipe
from flashwam.report.recordings_page import draw_trajectories
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.run.model_info import ModelInfo
from flashwam.sampling import StreamSampler, samplers_for
from flashwam.sim.closed_loop import run_task
from flashwam.system.errors import InputError
from flashwam.system.tensor_file import load_tensors, read_header, write_tensors
from flashwam.wam.base import WorldActionModel

__all__ = ["HeldOut", "check_judge", "check_pictures", "listed_measures", "make_judge"]

logger = logging.getLogger(__name__)

_NOISE = 1_000_000
"""Seed of the first window's noise; those of an evaluation are below."""
_REFERENCE = "teacher.safetensors"
_OVER_CHUNK, _PLACES = "over_chunk", 6
"""The list of errors at each place of a chunk, and of how many of them a measurement tells."""
_FIRST = ("all_error_teacher", "all_teacher_spread", "student_between", "all_error_recorded")


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A judge, see `flashwam.distillation.judging.Judge`.

    Args:
        config: What is measured.
        windows: Of held-out episodes.
        batch: The windows that are drawn.
        steps: Stream name -> steps; None for a teacher's own.
        teaches: The model is a velocity network, and is drawn as one.
        reference: What the teacher drew on the windows; None in a teacher's own training.
        pictures: Latents -> pictures; None where nothing decodes them.
        alone: See `flashwam.evaluation.decoded.DecodedDraws`.
        codec: Between world and model; None where nobody drives.
        tasks: Those that are driven.
        apart: Measures in place of all draws, where the method makes a model that draws nothing yet.
    """

    config: JudgeConfig
    windows: Windows
    batch: Batch
    steps: Mapping[str, int] | None
    teaches: bool
    reference: Chunks | None = None
    pictures: Callable[[Tensor], np.ndarray] | None = None
    alone: bool = False
    codec: Codec | None = None
    tasks: tuple[str, ...] = field(default=())
    apart: Callable[[WorldActionModel], Mapping[str, float]] | None = None

    def __call__(
        self, model: WorldActionModel, streams: Mapping[str, StreamSpec], *, place: Path, tells: bool
    ) -> Judgement:
        """See `flashwam.distillation.judging.Judge`."""
        if self.apart is not None:
            return Judgement(measures=self.apart(model))
        samplers = samplers_for(streams, steps=self.steps, teacher=self.teaches)
        drawn = window_draws(model, samplers, self.batch, draws=self.config.draws, seed=_NOISE)
        measures = self._driven(model, samplers)
        if not tells:
            return Judgement()
        controls = drawn_controls(drawn, self.reference, self.batch, self.windows, draws=self.config.draws)
        found = trajectory_measures(controls)
        told = {name: value for name, value in found.items() if isinstance(value, float) and not _of_others(name)}
        measures |= {name: told.pop(name) for name in _FIRST if name in told} | told
        if self.reference is not None:
            measures |= open_loop_measures(drawn, self.reference, self.batch, draws=self.config.draws)
            measures |= {} if self.decoded is None else self.decoded.measures(drawn)
        measures |= listed_measures(found, self.windows.names)
        pictures = {}
        if find_spec("matplotlib") is not None:
            file = place.with_name(f"{place.name}_trajectories.npz")
            save_trajectories(controls, file)
            names = self.windows.names.with_units
            pictures["trajectories"] = draw_trajectories(
                file, names, file.with_suffix(".png"), title=place.name.replace("_", " ")
            )
            strip = self._strip(drawn, place.with_name(f"{place.name}_video.png"))
            pictures |= {} if strip is None else {"video": strip}
        return Judgement(measures=measures, undecided=_undecided(found), pictures=pictures)

    @cached_property
    def decoded(self) -> DecodedDraws | None:
        """Looks at decoded draws; None where nothing decodes them, or there is no teacher."""
        about = {"batch": self.batch, "draws": self.config.draws, "alone": self.alone}
        return decoded_draws(self.pictures, self.reference, **about)

    def _strip(self, drawn: Chunks, path: Path) -> Path | None:
        shown = [each for each in (self.reference, drawn) if each is not None]
        if self.pictures is None or save_strip(self.pictures, self.batch, shown, path, draws=self.config.draws) is None:
            return None
        return path

    def _driven(self, model: WorldActionModel, samplers: Mapping[str, StreamSampler]) -> dict[str, float]:
        """Success of every task and of all together; nothing where none are driven."""
        if not self.config.episodes or self.codec is None:
            return {}
        drive = partial(run_task, model, samplers, self.codec, episodes=self.config.episodes, seed=JUDGED_SEED)
        won = {task: fmean(drive(task).success) for task in self.tasks}
        return {"success": fmean(won.values()), **{f"{task}_success": share for task, share in won.items()}}


def listed_measures(found: Mapping[str, float | list[float]], names: ControlNames) -> dict[str, float]:
    """Measures of each control, such as "error_recorded/left_x", and of a few places of a chunk, as "over_chunk/12".

    What is not finite, and what is not of the model, is left out.

    Args:
        found: What `flashwam.evaluation.trajectories.trajectory_measures` returns.
        names: Of the V controls.
    """
    plain = [re.sub(r"[^\w.-]+", "_", name) for name in names.names]
    if len(set(plain)) < len(plain):
        plain = [f"{number}_{name}" for number, name in enumerate(plain)]
    lists = {name: values for name, values in found.items() if isinstance(values, list) and not _of_others(name)}
    over_chunk = lists.pop(_OVER_CHUNK, [])
    told = {f"{name}/{each}": x for name, values in lists.items() for each, x in zip(plain, values, strict=True)}
    digits = max(2, len(str(len(over_chunk))))
    for place in np.unique(np.linspace(0, len(over_chunk) - 1, _PLACES).round().astype(int)) if over_chunk else ():
        told[f"{_OVER_CHUNK}/{place + 1:0{digits}d}"] = over_chunk[place]
    return {name: value for name, value in told.items() if math.isfinite(value)}


def _of_others(name: str) -> bool:
    """Tells whether a measure is not of the model: what does not change while it is trained. The distance of two draws
    of the teacher stays, as the scale of the distance to it."""
    return name.startswith(("teacher_", "recorded_", "all_teacher_error", "split"))


def check_judge(recipe: Recipe, loop: LoopConfig) -> None:
    """Refuses a judge that a recipe's data or method leave nothing to do, or whose measure of the best is never there.

    Raises:
        ValueError: The message says what to set.
    """
    config, recorded = loop.judge, not recipe.data.simulated
    assert config is not None
    if config.episodes and recorded:
        raise InputError(
            f"judge.episodes is {config.episodes}, but the data are recordings (data.source lerobot), whose tasks the "
            "simulator does not have: set judge.episodes=0; held-out episodes are measured on either way"
        )
    if config.episodes and is_measured_apart(loop):
        raise InputError(
            f"recipe {recipe.name!r}: judge.episodes is {config.episodes}, but after this stage of {loop.method} "
            "nothing drives yet: set judge.episodes=0; it is measured on held-out episodes either way"
        )
    if recorded and recipe.data.held_out_every is None:
        raise InputError(
            f"recipe {recipe.name!r}: judge measures on held-out episodes, and data.held_out_every is null: set it, "
            "such as data.held_out_every=20"
        )
    check_keep_best(recipe, loop, taught=loop is recipe.distill)


def check_pictures(recipe: Recipe, loop: LoopConfig, codec: Codec | None) -> None:
    """Refuses a measure of pictures for the best where nothing decodes them, before a run's folder is made.

    Args:
        recipe, loop, codec: See `make_judge`.

    Raises:
        ValueError: The message says what to set.
    """
    if loop.keep_best in MEASURES_OF_PICTURES and _pictures(recipe, loop, codec) is None:
        raise InputError(
            f"recipe {recipe.name!r}: keep_best is {loop.keep_best}, which is never measured: {recipe.wam.pretrained} "
            "has no autoencoder that decodes video; set keep_best to all_error_teacher"
        )


def make_judge(
    recipe: Recipe,
    loop: LoopConfig,
    *,
    result: str,
    student: WorldActionModel,
    teacher: WorldActionModel | None,
    codec: Codec | None,
    run: RunFolder,
) -> HeldOut:
    """Makes what measures a run's model as `loop.judge` says. A teacher's draws are made once and kept with the run.

    Args:
        recipe: The run's.
        loop: The section of it that runs.
        result: What the run makes, "student" or "teacher".
        student: Says of which shapes the data have to be.
        teacher: Draws; None in a teacher's own training.
        codec: Of data that are encoded here.
        run: The run's folder.

    Raises:
        FileNotFoundError, ValueError: No episodes are held out.
    """
    config, apart = loop.judge, is_measured_apart(loop)
    assert config is not None
    windows = _windows(recipe, codec, student)
    drawn = range(config.windows) if apart else judged_draws(windows.source, config.windows)
    batch = windows.source.batch(drawn).restricted(student.predicted)
    nfe = config.nfe or recipe.evaluate.nfe[0]
    reference = None
    if teacher is not None and not apart and os.environ.get("RANK", "0") == "0":
        reference = _reference(
            teacher, recipe, loop, batch, draws=config.draws, run=run, device=Setup.of(recipe, loop).device
        )
        if loop.keep_best in MEASURES_OF_WAYS:
            _check_ways(
                drawn_controls(reference, reference, batch, windows, draws=config.draws), recipe, loop.keep_best
            )
    return HeldOut(
        config=config,
        windows=windows,
        batch=batch,
        steps=parse_nfe(nfe, tuple(recipe.streams)),
        teaches=result == "teacher",
        reference=reference,
        pictures=None if apart else _pictures(recipe, loop, codec),
        alone=student.conditions_on_first,
        codec=codec,
        tasks=recipe.tasks,
    )


def _undecided(found: Mapping[str, object]) -> dict[str, str]:
    """The measures of ways that these draws have none of, and other draws of the model can have."""
    if not found.get("split") or "same_way" in found:
        return {}
    return {"same_way": "where the teacher's draws fall apart, none of its own decides for a way"}


def _check_ways(teacher: Drawn, recipe: Recipe, measure: str) -> None:
    """Refuses a measure of ways on windows where a teacher's draws, which are its reference, have but one."""
    if not ways_taken(teacher.student, teacher.student, teacher)["split"]:
        raise InputError(
            f"recipe {recipe.name!r}: keep_best is {measure}, which is never measured: on the judge's "
            f"{len(teacher.valid)} windows the teacher's draws fall apart nowhere; raise judge.windows, or set "
            "keep_best to all_error_teacher"
        )


def _windows(recipe: Recipe, codec: Codec | None, student: WorldActionModel) -> Windows:
    norm = action_norm(recipe) if codec is None else codec.actions
    told = f"recipe {recipe.name!r}: judge measures on held-out episodes, and "
    try:
        return find_windows(
            recipe.data,
            norm,
            student,
            split="val",
            held_out=True,
            seed=JUDGED_WINDOWS,
            autoencoder=None if codec is None else codec.autoencoder,
        )
    except NoEpisodesError as error:
        raise InputError(
            f"{told}none of those below {recipe.data.root} is ({error}): lower data.held_out_every, or set judge to "
            "null"
        ) from error


def _pictures(recipe: Recipe, loop: LoopConfig, codec: Codec | None) -> Callable[[Tensor], np.ndarray] | None:
    if codec is not None:
        return codec.pictures
    given = recipe.wam.pretrained
    return None if given is None else find_pictures([Path(given)], Setup.of(recipe, loop).device)


def _reference(
    teacher: WorldActionModel,
    recipe: Recipe,
    loop: LoopConfig,
    batch: Batch,
    *,
    draws: int,
    run: RunFolder,
    device: torch.device,
) -> Chunks:
    """The teacher's draws in all its steps, as the student is to draw, read where this run has made them; one process
    alone needs them."""
    folder = Path(recipe.wam.pretrained or "")
    own = ModelInfo.read(folder).streams if (folder / INFO_FILE).is_file() else recipe.streams
    taught = find_method(loop.method).teacher_draws
    drawn_so = {
        name: replace(spec, **{each: getattr(recipe.streams[name], each) for each in taught})
        for name, spec in own.items()
    }
    samplers = samplers_for(drawn_so, steps=None, teacher=True)
    about = {
        "teacher": tensors_fingerprint(teacher.state_dict()),
        "windows": tensors_fingerprint(batch.tensors()),
        "settings": dict(teacher.decided_by),
        "samplers": {name: sampler.settings for name, sampler in samplers.items()},
        "draws": draws,
    }
    key = values_fingerprint(about)
    path = run.judged / _REFERENCE
    if path.is_file() and read_header(path)[1].get("of") == key:
        held = load_tensors(path)
        count = 1 + max(int(name.partition("/")[0]) for name in held)
        return [{name: held[f"{k}/{name}"] for name in samplers if f"{k}/{name}" in held} for k in range(count)]
    home, training = next(teacher.parameters()).device, teacher.training
    try:
        drawn = window_draws(
            teacher.to(device).eval(), samplers, batch, draws=draws, seed=_NOISE, label="judge: teacher draws"
        )
    finally:
        teacher.to(home).train(training)
    held = {f"{k}/{name}": x.contiguous() for k, chunk in enumerate(drawn) for name, x in chunk.items()}
    write_tensors(path, held, metadata={"of": key})
    return drawn
