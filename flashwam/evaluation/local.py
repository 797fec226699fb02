# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model: closed loop, open loop, latency, pictures; one JSON file per setting."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from flashwam.core.batch import Batch
from flashwam.core.sampler_name import sampler_name
from flashwam.core.temperature import Temperature
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.lerobot import SegmentDataset
from flashwam.evaluation.decoded import DecodedDraws
from flashwam.evaluation.driven_tasks import DrivenTasks, driving
from flashwam.evaluation.driving import drive_tasks, overall_numbers, task_numbers
from flashwam.evaluation.latency import chunk_latency
from flashwam.evaluation.open_loop import chunk_draws, open_loop_measures
from flashwam.evaluation.pictures import save_film, save_strip
from flashwam.evaluation.policy import Policy, described, load_policy
from flashwam.evaluation.reference import reference_draws
from flashwam.evaluation.windows import held_out_windows
from flashwam.recipe.sections import Recipe
from flashwam.run.card import renew_card
from flashwam.run.evaluation import Asked, Evaluation, evaluation_name, measure_once
from flashwam.sampling import StreamSampler
from flashwam.sim.closed_loop import run_task
from flashwam.sim.simulators import driven_by
from flashwam.system.imports import trusting
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = ["evaluate"]

logger = logging.getLogger(__name__)

DRAWS = 4


def evaluate(
    checkpoint: str | Path,
    *,
    episodes: int | None = None,
    nfe: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    plain_euler: bool = False,
    unit_amplitude: bool = False,
    temperature: Temperature | None = None,
    precision: str | None = None,
    closed_loop: bool = True,
    seed: int | None = None,
    out: str | Path | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Measures a model; a setting that was measured before is read, not run again.

    Open-loop measures for which the data or the teacher were missing then are added once they are there.

    Args:
        checkpoint: A teacher's or student's folder, or a run folder.
        episodes: Per task; the recipe's if None.
        nfe: Steps per stream and chunk, such as "1v/2a"; "full" for the teacher's own; the recipe's if None.
        tasks: The recipe's if None.
        plain_euler: Ignore the student's consistency functions, to measure what that mismatch costs.
        unit_amplitude: Bring the student's consistency functions to the data's amplitude (`UnitAmplitude`), to tell a
            gain before controls are clipped from what plain Euler adds.
        temperature: Of the noise that every stream begins with, 0 to 10, or stream -> of its own; what the model itself
            says where None.
        precision: "own" or "fp8", see `WorldActionModel.choose_precision`; what the model's recipe says if None. The
            teacher's draws that it is compared with are in their own numbers.
        closed_loop: Drive the tasks; False measures the open loop alone.
        seed: Of episodes and noise; the recipe's if None.
        out: Folder for the results; see `Policy.evaluations` if None.
        trust: Import the classes that its files, and those of the teacher they name, name beside ours, and run their
            code.

    Returns:
        One result per setting, as written.

    Raises:
        FileNotFoundError, ValueError: The model cannot be loaded or driven, or is asked for two samplers at once.
    """
    sampler = sampler_name(plain_euler=plain_euler, unit_amplitude=unit_amplitude, temperature=temperature)
    policy = load_policy(checkpoint, trust=trust)
    weights, seed = policy.fingerprint, policy.evaluation_seed(seed)
    policy.wam.choose_precision(policy.info.precision if precision is None else precision)
    tasks, episodes = policy.request(tasks, episodes, driven=closed_loop)
    sampler = policy.told_sampler(sampler)
    folder = user_path(out) if out is not None else policy.evaluations
    results = []
    for steps in policy.settings(nfe):
        stem = evaluation_name(policy.info.steps, steps, policy.how(sampler), seed)
        settings = {"model": weights, **policy.said(policy.samplers(steps, sampler=sampler))}
        asked = Asked(tasks=tasks, episodes=episodes, closed_loop=closed_loop, settings=settings)
        measure = partial(_measure, policy, steps, asked, seed=seed, sampler=sampler, picture=folder / stem)
        with trusting(trust):
            complete = partial(_with_open_loop, policy, picture=folder / stem)
            path, name = folder / f"{stem}.json", policy.info.name or None
            results.append(measure_once(path, asked, measure, complete=complete, run=name).to_json())
        if folder.resolve() == policy.run.evaluations.resolve():
            renew_card(policy.folder, trust=trust)
    return results


def _measure(policy: Policy, nfe: str, asked: Asked, *, seed: int, sampler: str, picture: Path) -> Evaluation:
    samplers = policy.samplers(nfe, sampler=sampler)
    tasks = asked.tasks if asked.closed_loop else ()
    drive_one = partial(run_task, policy.wam, samplers, policy.codec, episodes=asked.episodes, seed=seed)
    about = driving(asked, setting=nfe, sampler=sampler, precision=policy.wam.precision, seed=seed)
    kept = DrivenTasks(picture.with_name(f"{picture.name}.json"), about)
    driven = drive_tasks(drive_one, tasks, f"{policy.name} {nfe}", kept=kept)
    open_loop, strip = _open_loop(policy, samplers, picture.with_name(f"{picture.name}.png"))
    films = [result.film for result in driven if result.film is not None]
    # The teacher's own steps are what others are compared with; every other setting carries its steps in its label.
    suffix = policy.suffix(sampler)
    return Evaluation(
        run=policy.name,
        label=f"{policy.name} {nfe}{suffix}",
        setting=nfe,
        sampler=sampler,
        **described(policy, samplers),
        tasks=task_numbers(driven),
        overall=overall_numbers(driven),
        asked=asked,
        open_loop=open_loop,
        latency=chunk_latency(policy, samplers),
        parameters=policy.wam.deployed_parameters(),
        strip=strip,
        film=save_film(films, picture.with_name(f"{picture.name}_film.png")) if films else None,
        seed=seed,
        provenance=provenance(),
        more=driven_by(tasks),
    )


def _with_open_loop(policy: Policy, found: Evaluation, *, picture: Path) -> Evaluation | None:
    """Adds the open loop to what was measured while the data or the teacher were missing; None while they are."""
    if found.open_loop is not None:
        return None
    samplers = policy.samplers(found.setting, sampler=found.sampler)
    measures, strip = _open_loop(policy, samplers, picture.with_name(f"{picture.name}.png"))
    return None if measures is None else replace(found, open_loop=measures, strip=strip)


def _held_out(policy: Policy) -> Batch | None:
    """Held-out windows of the run's own data, or None where none are asked for or they are not here."""
    recipe = policy.info.recipe
    if recipe is None:
        logger.warning("no open-loop measures: %s does not say where its data lie", policy.name)
        return None
    if (asked := recipe.evaluate.open_loop_samples) < DRAWS:
        if asked:
            logger.warning("no open-loop measures: open_loop_samples %d is less than a window's %d draws", asked, DRAWS)
        return None
    try:
        windows = policy.held_out() if recipe.data.simulated else _recorded(policy, recipe)
    except FileNotFoundError as error:
        logger.warning("no open-loop measures: the data of %s are not here (%s)", policy.name, error)
        return None
    if windows is None:
        return None
    return windows.batch(range(recipe.evaluate.open_loop_samples // DRAWS)).restricted(policy.wam.predicted)


def _recorded(policy: Policy, recipe: Recipe) -> EpisodeDataset | SegmentDataset | None:
    found = held_out_windows(policy, recipe.data)
    if found is None:
        logger.warning("no open-loop measures: none of the data of %s is held out", policy.name)
    return None if found is None else found.source


def _open_loop(
    policy: Policy, samplers: Mapping[str, StreamSampler], picture: Path
) -> tuple[dict[str, float] | None, str | None]:
    """Measures and picture against the draws, from the same noise, of the model that it was distilled from, or of
    itself; None where that or the data are missing."""
    batch = _held_out(policy)
    if batch is None:
        return None, None
    draw = partial(chunk_draws, batch=batch, draws=DRAWS)
    reference = reference_draws(policy, draw, recipe=policy.info.recipe)
    if reference is None:
        return None, None
    drawn = chunk_draws(policy.wam, samplers, batch, draws=DRAWS)
    pictures, alone = policy.codec.pictures, policy.wam.conditions_on_first
    measures = open_loop_measures(drawn, reference, batch, draws=DRAWS)
    measures |= DecodedDraws(pictures=pictures, batch=batch, reference=reference, draws=DRAWS, alone=alone).measures(
        drawn
    )
    return measures, save_strip(pictures, batch, (reference, drawn), picture, draws=DRAWS)
