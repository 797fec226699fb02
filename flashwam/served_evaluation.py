# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model behind a policy server: the same tasks, scenes and table as `flashwam.evaluation`."""

import json
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashwam.data.episodes import atomic_write
from flashwam.evaluation import episode_numbers, task_numbers
from flashwam.provenance import provenance
from flashwam.sampling import nfe_text
from flashwam.serve.client import PolicyClient, RemotePolicy
from flashwam.sim.closed_loop import drive

__all__ = ["evaluate_served"]

logger = logging.getLogger(__name__)


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
    """
    with PolicyClient(url, token) as client:
        told = client.metadata
        policy = RemotePolicy(client)
        name, nfe = str(told["name"]), nfe_text(told["nfe"])
        tasks = tuple(tasks or told.get("tasks") or ())
        episodes = episodes or told.get("episodes") or 50
        if not tasks:
            raise ValueError(f"the model at {url} names no tasks; give --tasks, such as reach-wall")
        driven = []
        for task in tasks:
            driven.append(drive(policy, task, episodes=episodes, seed=seed, size=policy.size))
            logger.info("%s %s at %s: %s %d/%d", name, nfe, url, task, sum(driven[-1].success), episodes)
    result = {
        "label": f"{name} {nfe} served",
        "run": name,
        "kind": told["kind"],
        "step": told["step"],
        "setting": nfe,
        "nfe": dict(told["nfe"]),
        "sampler": "own",
        "asked": {"tasks": list(tasks), "episodes": episodes, "closed_loop": True},
        "tasks": {one.task: task_numbers([one]) | episode_numbers(one) for one in driven},
        "overall": task_numbers(driven),
        "open_loop": None,
        "latency": {"chunk_ms": statistics.median(policy.chunk_ms)},
        "strip": None,
        "seed": seed,
        "server": {"url": url, "model": told},
        "provenance": provenance(),
    }
    folder = Path(out) if out is not None else Path("runs") / "served" / name / "evaluations"
    path = folder / f"step{told['step']}_{nfe.replace('/', '-')}_served_seed{seed}.json"
    atomic_write(path, (json.dumps(result, indent=1) + "\n").encode())
    return [result]
