# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model behind a policy server: the same tasks, scenes and table as `flashwam.evaluation.local`."""

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flashwam.core.steps import nfe_text
from flashwam.evaluation.driving import drive_tasks, overall_numbers, task_numbers
from flashwam.run.evaluation import Asked, Evaluation, evaluation_name
from flashwam.run.folder import RunFolder
from flashwam.serve.client import PolicyClient, RemotePolicy
from flashwam.sim.closed_loop import drive
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
        out: Folder for the result; `runs/served/<name>/evaluations` if None.

    Returns:
        One result, as written: like those of `evaluate`, without an open loop; latency is a round trip's.

    Raises:
        FileExistsError: There is a measurement of this name and step in `out`.
        ValueError: The model names no tasks, and none are given.
    """
    with PolicyClient(url, token) as client:
        told = client.metadata
        policy = RemotePolicy(client)
        name, nfe = str(told["name"]), nfe_text(told["nfe"])
        tasks = tuple(tasks or told.get("tasks") or ())
        episodes = episodes or told.get("episodes") or 50
        if not tasks:
            raise InputError(f"the model at {url} names no tasks; give --tasks, such as reach-wall")
        folder = user_path(out) if out is not None else RunFolder(Path("runs") / "served" / name).evaluations
        path = folder / f"{evaluation_name(told['step'], nfe, 'served', seed)}.json"
        if path.exists():
            raise FileExistsError(
                f"{path} holds an earlier measurement, and a server does not say whether its weights are still the "
                "same: give another out= folder (--out), or move the file away"
            )
        drive_one = partial(drive, policy, episodes=episodes, seed=seed, size=policy.size)
        driven = drive_tasks(drive_one, tasks, f"{name} {nfe} at {url}")
    result = Evaluation(
        run=name,
        label=f"{name} {nfe} served",
        setting=nfe,
        tasks=task_numbers(driven),
        overall=overall_numbers(driven),
        kind=told["kind"],
        step=told["step"],
        nfe=dict(told["nfe"]),
        asked=Asked(tasks=tasks, episodes=episodes),
        latency={"chunk_ms": statistics.median(policy.chunk_ms)},
        seed=seed,
        # A server of an earlier version does not tell these.
        training_seed=told.get("training_seed"),
        family=told.get("family", ""),
        guidance={n: s["guidance_scale"] for n, s in told.get("streams", {}).items() if s["guidance_scale"] != 1},
        provenance=provenance(),
        more={"server": {"url": url, "model": told}},
    )
    result.write(path)
    return [result.to_json()]
