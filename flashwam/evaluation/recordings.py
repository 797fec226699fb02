# SPDX-License-Identifier: Apache-2.0
"""Judges a model on recorded episodes: what it draws there, against its teacher's draws and what was recorded."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.sampler_name import sampler_name
from flashwam.core.temperature import Temperature
from flashwam.data.control_names import ControlNames
from flashwam.data.fingerprint import tensors_fingerprint
from flashwam.evaluation.decoded import DecodedDraws, decoded_draws
from flashwam.evaluation.drawn_controls import drawn_controls, save_trajectories
from flashwam.evaluation.latency import draw_latency
from flashwam.evaluation.open_loop import open_loop_measures, window_draws
from flashwam.evaluation.pictures import find_pictures, save_strip
from flashwam.evaluation.policy import LoadedModel, described, load_model
from flashwam.evaluation.reference import Chunks, reference_draws, reference_fingerprint
from flashwam.evaluation.trajectories import Drawn, trajectory_measures
from flashwam.evaluation.windows import EVALUATED_WINDOWS, Windows, different_windows, recorded_windows
from flashwam.recipe.sections import Recipe
from flashwam.run.evaluation import Asked, Evaluation, evaluation_name, measure_once
from flashwam.run.folder import RunFolder
from flashwam.run.recordings import OnRecordings, RecordingNumbers
from flashwam.sampling import StreamSampler
from flashwam.system.errors import InputError
from flashwam.system.imports import trusting
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance
from flashwam.wam.base import WorldActionModel

__all__ = ["evaluate_recordings", "recording_numbers"]


def evaluate_recordings(
    checkpoint: str | Path,
    *,
    data: str | Path | None = None,
    tasks: Sequence[str] = (),
    recipe: Recipe | None = None,
    teacher: str | Path | None = None,
    nfe: Sequence[str] | None = None,
    windows: int = EVALUATED_WINDOWS,
    draws: int = 8,
    plain_euler: bool = False,
    unit_amplitude: bool = False,
    temperature: Temperature | None = None,
    precision: str | None = None,
    preset: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Measures a model on recorded episodes, with no simulator; a setting that was measured before is read.

    What was measured without a teacher is measured anew, in the same file, once one is there.

    Every window is drawn `draws` times under its recorded past, by the model and by its teacher in all the teacher's
    steps, from the same noise. A teacher is its own reference.

    Args:
        checkpoint: A teacher's or student's folder, or a run folder; with a preset, another tool's checkpoint.
        data: Folder of recordings in the layout that the recipe describes; None for the episodes that were held out of
            those that the model was made from.
        tasks: Data sets there; without any the recipe's, see `recorded_windows`.
        recipe: Its `data` section says how the recordings are laid out; the model's own if None.
        teacher: Folder of the model that it was distilled from, where that is not where it was.
        nfe: Steps per stream and chunk, such as "1v/2a"; "full" for the teacher's own; the recipe's if None.
        windows: Samples of the recipe's length.
        draws: Of every window; 8 or more tell whether the draws take several ways.
        plain_euler, unit_amplitude, temperature, precision: As for `flashwam.evaluate`.
        preset: For a checkpoint that does not say how it is sampled.
        device: Where the models run, one after another.
        dtype: "bfloat16" or "float32" of the models; that of their files if None.
        seed: Of the noise; the windows are always the same.
        out: Folder for the results; `evaluations/recordings` of the model's run if None. Those on other recordings bear
            their folder's name.
        trust: As for `flashwam.evaluate`.

    Returns:
        One result per setting, as written.

    Raises:
        FileNotFoundError, ValueError: Model or recordings are missing, do not fit each other, two samplers are asked
            for at once, or the setting was measured before with another teacher, on other windows, in another dtype, on
            another kind of device or under another preset.
    """
    sampler = sampler_name(plain_euler=plain_euler, unit_amplitude=unit_amplitude, temperature=temperature)
    on = OnRecordings(windows=windows, draws=draws, data="" if data is None else str(data), tasks=tuple(tasks))
    model = load_model(checkpoint, preset=preset, device=device, dtype=dtype, trust=trust)
    weights, sampler = model.fingerprint, model.told_sampler(sampler)
    model.wam.choose_precision(model.info.precision if precision is None else precision)
    recipe = recipe or model.info.recipe
    if recipe is None:
        raise InputError(
            f"{model.folder} does not say how its data are laid out: give a recipe whose data section does, such as "
            "--recipe libero/flash_wam"
        )
    folder = user_path(out) if out is not None else RunFolder(model.evaluations.parent).recordings
    with trusting(trust):
        given = {"recipe": recipe, "teacher": teacher, "dtype": dtype, "trust": trust}
        judge = _Judge(model=model, recipe=recipe, on=on, seed=seed, teacher=given)
        settings = {"model": weights, "dtype": dtype or "own", "preset": preset or "none", **judge.inputs()}
        results = []
        for steps in model.settings(nfe):
            said = model.said(model.samplers(steps, sampler=sampler))
            asked = Asked(tasks=(), episodes=0, closed_loop=False, recordings=on, settings={**settings, **said})
            stem = evaluation_name(model.info.steps, steps, model.how(sampler), seed)
            # Its own recordings and others are measured side by side.
            stem += "" if data is None else f"_on_{user_path(data).resolve().name}"
            measure = partial(judge.measure, steps, sampler, asked, folder / stem)
            complete = partial(_completed, judge, measure, there="teacher" in settings)
            name = model.info.name or None
            found = measure_once(folder / f"{stem}.json", asked, measure, complete=complete, run=name)
            results.append(found.to_json())
    return results


def _completed(
    judge: "_Judge", measure: Callable[[], Evaluation], found: Evaluation, *, there: bool
) -> Evaluation | None:
    """Measures anew what nothing was compared with, if there is a reference now; says of the episodes what is known of
    them now, which earlier versions did not ask."""
    if there and found.open_loop is None:
        return measure()
    told = found.recordings
    with suppress(FileNotFoundError):
        if told is not None and told.held_out != (known := judge.windows.held_out):
            return replace(found, recordings=replace(told, held_out=known))
    return None


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """One model on one set of windows."""

    model: LoadedModel
    recipe: Recipe
    on: OnRecordings
    seed: int
    teacher: Mapping[str, Any]

    @cached_property
    def windows(self) -> Windows:
        return recorded_windows(self.model, self.recipe, data=self.on.data or None, tasks=self.on.tasks)

    @cached_property
    def batch(self) -> Batch:
        return self.windows.source.batch(range(self.on.windows)).restricted(self.model.wam.predicted)

    @cached_property
    def reference(self) -> Chunks | None:
        return reference_draws(self.model, partial(self.draw, "teacher"), **self.teacher)

    @cached_property
    def pictures(self) -> Callable[[Tensor], np.ndarray] | None:
        """Latents [n, C, F, H, W] -> uint8 [n, P, height, width, 3]; None where nothing decodes them."""
        places = [self.model.folder, *([Path(given)] if (given := self.recipe.wam.pretrained) else [])]
        return find_pictures(places, next(self.model.wam.parameters()).device)

    @cached_property
    def decoded(self) -> DecodedDraws | None:
        alone = self.model.wam.conditions_on_first
        return decoded_draws(self.pictures, self.reference, batch=self.batch, draws=self.on.draws, alone=alone)

    def inputs(self) -> dict[str, str]:
        """Fingerprints of what decides the numbers beside the request, by name; without what is not here."""
        told = {"device": next(self.model.wam.parameters()).device.type}
        given = {name: self.teacher[name] for name in ("recipe", "teacher")}
        if (teacher := reference_fingerprint(self.model, **given)) is not None:
            told["teacher"] = teacher
        # A result can be read where its recordings are not.
        with suppress(FileNotFoundError):
            told["windows"] = tensors_fingerprint(self.batch.tensors())
        return told

    def draw(self, who: str, wam: WorldActionModel, samplers: Mapping[str, StreamSampler]) -> Chunks:
        """Every window's draws."""
        label = f"{self.model.name}: {who} draws"
        return window_draws(wam, samplers, self.batch, draws=self.on.draws, seed=self.seed, label=label)

    def measure(self, nfe: str, sampler: str, asked: Asked, place: Path) -> Evaluation:
        """One setting."""
        model, draws = self.model, self.on.draws
        samplers = model.samplers(nfe, sampler=sampler)
        reference = self.reference
        drawn = self.draw(nfe, model.wam, samplers)
        open_loop = None
        if reference is not None:
            open_loop = open_loop_measures(drawn, reference, self.batch, draws=draws)
            open_loop |= {} if self.decoded is None else self.decoded.measures(drawn)
        strip = None
        if self.pictures is not None:
            shown = [each for each in (reference, drawn) if each is not None]
            strip = save_strip(self.pictures, self.batch, shown, place.with_name(f"{place.name}.png"), draws=draws)
        return Evaluation(
            run=model.name,
            label=f"{model.name} {nfe}{model.suffix(sampler)}",
            setting=nfe,
            sampler=sampler,
            **described(model, samplers),
            tasks={},
            asked=asked,
            open_loop=open_loop,
            latency=draw_latency(model.wam, samplers, self.batch.null_text),
            parameters=model.wam.deployed_parameters(),
            strip=strip,
            seed=self.seed,
            recordings=self._numbers(drawn, reference, place),
            provenance=provenance(),
        )

    def _numbers(self, drawn: Chunks, reference: Chunks | None, place: Path) -> RecordingNumbers:
        windows = self.windows
        controls = drawn_controls(drawn, reference, self.batch, windows, draws=self.on.draws)
        return recording_numbers(
            controls,
            windows.names,
            windows=self.batch.size,
            different=different_windows(windows.source, self.batch.size),
            episodes=windows.episodes,
            draws=self.on.draws,
            held_out=windows.held_out,
            trajectories=save_trajectories(controls, place.with_name(f"{place.name}_trajectories.npz")),
        )


def recording_numbers(controls: Drawn, names: ControlNames, **about: Any) -> RecordingNumbers:
    """The measures of drawn controls, as an evaluation keeps them.

    Args:
        controls: What was drawn.
        names: Of the values that are shown.
        about: Further fields of `RecordingNumbers`: which windows, and where a few of them lie.
    """
    found = trajectory_measures(controls)
    listed = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    over_chunk = listed.pop("over_chunk", ())
    return RecordingNumbers(
        names=names.names,
        units=names.units,
        by_control=listed,
        measures={name: value for name, value in found.items() if isinstance(value, float)},
        over_chunk=over_chunk,
        **about,
    )
