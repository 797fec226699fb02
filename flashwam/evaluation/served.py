# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model behind a policy server: the same tasks, scenes and table as `flashwam.evaluation.local`."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from flashwam.evaluation.driven_tasks import DrivenTasks, driving
from flashwam.evaluation.driving import drive_tasks, overall_numbers, task_numbers
from flashwam.evaluation.real_time import clock_of, loop_at, loop_ms
from flashwam.evaluation.served_model import Greeting, described_by_server, refuse_earlier, served_how
from flashwam.run.evaluation import Asked, Evaluation, evaluation_name, finish
from flashwam.run.real_time import RealTime
from flashwam.serve.client import PolicyClient
from flashwam.serve.remote_policy import RemotePolicy
from flashwam.sim.closed_loop import drive
from flashwam.sim.pace import Pace
from flashwam.sim.simulators import driven_by, refuse_other_robots
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = ["evaluate_served"]


def evaluate_served(
    url: str,
    *,
    token: str | None = None,
    episodes: int | None = None,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    clock: RealTime | None = None,
) -> list[dict[str, Any]]:
    """Drives the tasks in closed loop through a policy server, one episode after another.

    The scenes are those of `evaluate`. The server draws the noise from the same seed, but per episode; a single
    episode is the same to the bit, many are not.

    Args:
        url: Such as "ws://127.0.0.1:29536".
        token: Where the server asks for one.
        episodes: Per task; what the served model's recipe says if None.
        tasks: What the served model's recipe says if None.
        seed: Of episodes and noise.
        out: Folder for the result; `runs/served/<name>/evaluations`, or `real_time` in it, if None.
        clock: Of a world that goes on while the server computes; one that waits if None. A latency that is not given is
            that of round trips, measured first.

    Returns:
        One result, as written: like those of `evaluate`, without an open loop; latency is a round trip's.

    Raises:
        FileExistsError: There is a measurement of this name and step in `out`.
        ValueError: The model names no tasks, and none are given; or one is unknown, or of another robot.
    """
    with PolicyClient(url, token) as client:
        told = client.metadata
        greeting, policy = Greeting.read(told), RemotePolicy(client)
        name, nfe, run = greeting.name, greeting.nfe, greeting.run
        tasks = tuple(tasks or greeting.tasks)
        episodes = episodes or greeting.episodes or 50
        if not tasks:
            raise InputError(f"the model at {url} names no tasks; give --tasks, such as reach-wall")
        if (controls := told.get("controls")) is not None:
            refuse_other_robots(tasks, controls=controls, model=f"the model at {url}", own=greeting.tasks)
        how = served_how(told)
        how += "" if clock is None else f"_{clock.name}"
        folder = user_path(out) if out is not None else run.evaluations if clock is None else run.real_time
        path = folder / f"{evaluation_name(greeting.step, nfe, how, seed)}.json"
        refuse_earlier(path)
        asked, described = Asked(tasks=tasks, episodes=episodes, real_time=clock), described_by_server(told)
        drawn = {key: described[key] for key in ("sampler", "precision")}
        about = {**driving(asked, setting=nfe, seed=seed, **drawn), "model": told}
        pace, clock_told = _pace(policy, told, clock, kept=DrivenTasks(path, about))
        kept = DrivenTasks(path, {**about, "latency": None if pace is None else pace.latency_ms})
        drive_one = partial(drive, policy, episodes=episodes, seed=seed, size=policy.picture[0], pace=pace)
        driven = drive_tasks(drive_one, tasks, f"{name} {nfe} at {url}", kept=kept)
    result = Evaluation(
        run=name,
        label=f"{name} {nfe} served",
        setting=nfe,
        tasks=task_numbers(driven, control_hz=None if pace is None else pace.control_hz),
        overall=overall_numbers(driven),
        **described,
        asked=asked,
        real_time=clock_told,
        # Of the chunks that were drawn since it was begun, or gone on with.
        latency={"chunk_ms": statistics.median(policy.chunk_ms)} if policy.chunk_ms else {},
        seed=seed,
        provenance=provenance(),
        more={"server": {"url": url, "model": told}, **driven_by(tasks)},
    )
    finish(result, path)
    return [result.to_json()]


def _pace(
    policy: RemotePolicy, told: Mapping[str, Any], clock: RealTime | None, *, kept: DrivenTasks
) -> tuple[Pace | None, RealTime | None]:
    """The pace of the world, and its clock with the latency known; None for a world that waits."""
    if clock is None:
        return None, None
    pace = clock_of(clock)
    if pace.meanwhile == "go_on" and not told.get("takes_under_way"):
        raise InputError("this server takes no frames that are under way: let the robot hold (--meanwhile hold)")
    if clock.latency_ms is None:
        state = dict(told.get("senses", {})).get("state", 4)
        asked = clock

        def once(pace: Pace | None) -> float:
            return loop_ms(policy, state=state, picture=policy.picture, pace=pace)

        clock = replace(clock, latency_ms=kept.measured(lambda: round(loop_at(asked, once), 3)))
        policy.chunk_ms.clear()
        pace = clock_of(clock, latency_ms=clock.latency_ms)
    return pace, clock
