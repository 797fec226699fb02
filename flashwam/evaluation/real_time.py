# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model in a world that does not wait for it: success, and the time that a task takes, at a latency."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.evaluation.driven_tasks import DrivenTasks, driving
from flashwam.evaluation.driving import drive_tasks, overall_numbers, task_numbers
from flashwam.evaluation.policy import Policy, described, load_policy
from flashwam.run.evaluation import Asked, Evaluation, evaluation_name, measure_once
from flashwam.run.real_time import RealTime
from flashwam.sampling import StreamSampler
from flashwam.sim.chunk_policy import ChunkPolicy
from flashwam.sim.closed_loop import run_task
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.pace import Pace
from flashwam.sim.simulators import driven_by
from flashwam.system.errors import InputError
from flashwam.system.imports import trusting
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = ["PICTURE", "clock_of", "evaluate_real_time", "local_loop_ms", "loop_at", "loop_ms"]

logger = logging.getLogger(__name__)

PICTURE = 64
_TIMED = 7


def evaluate_real_time(
    checkpoint: str | Path,
    *,
    clocks: Sequence[RealTime] = (RealTime(),),
    episodes: int | None = None,
    nfe: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    sampler: str = "own",
    precision: str | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Drives a model while time goes on; what was measured before is read, not run again.

    Args:
        checkpoint: A teacher's or student's folder, or a run folder.
        clocks: How time goes on. A latency that is not given is measured first, once, with one episode, so that the
            episodes that follow are a function of it and of the seed.
        episodes: Per task; the recipe's if None.
        nfe: Steps per stream and chunk, such as "1v/2a"; "full" for the teacher's own; the recipe's if None.
        tasks: The recipe's if None.
        sampler: See `Evaluation.sampler`.
        precision: See `flashwam.evaluate`.
        seed: Of episodes and noise; the recipe's if None.
        out: Folder for the results; `real_time` in that of the model's other evaluations if None.
        trust: See `flashwam.evaluate`.

    Returns:
        One result per setting and clock, as written.

    Raises:
        FileNotFoundError, ValueError: The model cannot be loaded or driven, or a clock cannot be.
    """
    for clock in clocks:
        clock_of(clock)
    policy = load_policy(checkpoint, trust=trust)
    weights, seed = policy.fingerprint, policy.evaluation_seed(seed)
    policy.wam.choose_precision(policy.info.precision if precision is None else precision)
    tasks, episodes = policy.request(tasks, episodes)
    sampler = policy.told_sampler(sampler)
    folder = user_path(out) if out is not None else policy.real_time
    results = []
    for steps in policy.settings(nfe):
        settings = {"model": weights, **policy.said(policy.samplers(steps, sampler=sampler))}
        for clock in clocks:
            name = evaluation_name(policy.info.steps, steps, f"{policy.how(sampler)}_{clock.name}", seed)
            asked = Asked(tasks=tasks, episodes=episodes, real_time=clock, settings=settings)
            path = folder / f"{name}.json"
            measure = partial(_measure, policy, steps, asked, seed=seed, sampler=sampler, path=path)
            with trusting(trust):
                found = measure_once(path, asked, measure, run=policy.info.name or None)
                results.append(found.to_json())
    return results


def clock_of(clock: RealTime, *, latency_ms: float | None = None) -> Pace:
    """The pace of a world, of a clock whose latency is given, or was measured to be `latency_ms`.

    Raises:
        ValueError: A number is out of range.
    """
    if latency_ms is None and clock.latency_ms is not None and clock.scale != 1:
        raise InputError("a latency that is given is not scaled: give it as it is to be, or have it measured")
    known = clock.latency_ms if latency_ms is None else latency_ms
    return Pace(
        latency_ms=0.0 if known is None else known,
        meanwhile=clock.meanwhile,
        control_hz=clock.control_hz,
        patience=clock.patience,
    )


def loop_ms(
    policy: ChunkPolicy, *, state: int, picture: tuple[int, int] = (PICTURE, PICTURE), pace: Pace | None = None
) -> float:
    """Milliseconds from a picture to the controls drawn from it: encoded, remembered, drawn and decoded.

    The median of several chunks of one episode that sees black pictures; the first, with everything that is made once,
    is left out.

    Args:
        policy: It is reset.
        state: Numbers of the robot's state.
        picture: Height and width of a picture in pixels.
        pace: Of the world; where its robot goes on, what was under way is told late, which may cost passes of its own.
            One whose robot holds if None.
    """
    policy.reset("", np.zeros((1, *picture, 3), np.uint8), seed=0, state=np.zeros((1, state)))
    controls, spent, late = policy.controls(), [], 0
    for _ in range(_TIMED):
        frames = controls.shape[1] // policy.per_frame
        under_way = 0 if pace is None else pace.under_way(frames, policy.per_frame)
        seen = late + frames - under_way
        pictures, felt, late = np.zeros((1, seen, *picture, 3), np.uint8), np.zeros((1, seen, state)), under_way
        start = time.perf_counter()
        policy.observe(pictures, controls, state=felt, under_way=under_way)
        controls = policy.controls()
        spent.append(1000 * (time.perf_counter() - start))
    return statistics.median(spent[1:])


def loop_at(clock: RealTime, measure: Callable[[Pace | None], float]) -> float:
    """Milliseconds of a loop times the clock's scale. Of a robot that goes on it is timed again with as much under way
    as the first time left, since that depends on how long it takes.

    Args:
        clock: Of the world.
        measure: `loop_ms` by the pace alone.
    """
    alone = clock.scale * measure(None)
    if clock.meanwhile == "hold":
        return alone
    return clock.scale * measure(clock_of(clock, latency_ms=alone))


def local_loop_ms(policy: Policy, samplers: Mapping[str, StreamSampler], pace: Pace | None = None) -> float:
    """`loop_ms` of a model in this process."""
    one = LocalPolicy(policy.wam, samplers, policy.codec)
    _, height, width = policy.wam.shapes["video"]
    picture = (PICTURE, PICTURE * width // height)
    return loop_ms(one, state=policy.wam.senses.get("state", 4), picture=picture, pace=pace)


def _measure(policy: Policy, nfe: str, asked: Asked, *, seed: int, sampler: str, path: Path) -> Evaluation:
    samplers, clock = policy.samplers(nfe, sampler=sampler), asked.real_time or RealTime()
    about = driving(asked, setting=nfe, sampler=sampler, precision=policy.wam.precision, seed=seed)
    latency = clock.latency_ms
    if latency is None:
        once = partial(local_loop_ms, policy, samplers)
        latency = DrivenTasks(path, about).measured(lambda: round(loop_at(clock, once), 3))
        logger.info("%s %s: %g ms a chunk", policy.name, nfe, latency)
    pace = clock_of(clock, latency_ms=latency)
    drive_one = partial(run_task, policy.wam, samplers, policy.codec, episodes=asked.episodes, seed=seed, pace=pace)
    kept = DrivenTasks(path, {**about, "latency": latency})
    driven = drive_tasks(drive_one, asked.tasks, f"{policy.name} {nfe} {clock.meanwhile} at {latency:g} ms", kept=kept)
    suffix = policy.suffix(sampler)
    return Evaluation(
        run=policy.name,
        label=f"{policy.name} {nfe}{suffix}",
        setting=nfe,
        sampler=sampler,
        **described(policy, samplers),
        tasks=task_numbers(driven, control_hz=pace.control_hz),
        overall=overall_numbers(driven),
        asked=asked,
        parameters=policy.wam.deployed_parameters(),
        real_time=replace(clock, latency_ms=latency),
        seed=seed,
        provenance=provenance(),
        more=driven_by(asked.tasks),
    )
