# SPDX-License-Identifier: Apache-2.0
"""Drives a policy of masked reconstruction unstripped, with the modality that its training had beside the pictures."""

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashwam.data.episodes import atomic_write
from flashwam.evaluation import Policy, chunk_latency, episode_numbers, load_policy, task_numbers
from flashwam.policies.accompanied import AccompaniedPolicy
from flashwam.policies.privileged import PrivilegedPolicy
from flashwam.provenance import provenance
from flashwam.sampling import StreamSampler
from flashwam.sim.closed_loop import LocalPolicy, drive
from flashwam.targets.sense import StreamedSense
from flashwam.targets.streaming_tokens import StreamingTokens

__all__ = ["evaluate_with_auxiliary", "latency_with_auxiliary", "load_with_auxiliary"]

logger = logging.getLogger(__name__)


def load_with_auxiliary(folder: str | Path, *, capacity: int = 6) -> tuple[Policy, StreamedSense]:
    """A policy that `masked_reconstruction` trained, with its modality, and what senses that.

    Args:
        folder: The policy's or its run's.
        capacity: Entries of the cache.

    Raises:
        ValueError: It was trained without a modality, or the tokens of its data are another network's.
        FileNotFoundError: The network or the tokens' statistics are not where its recipe says.
    """
    policy = load_policy(folder)
    recipe = policy.info.extra.get("recipe") or {}
    options = recipe.get("train", {}).get("options", {})
    if not options.get("auxiliary"):
        raise ValueError(f"{policy.folder} was trained without an auxiliary modality: evaluate it as it is")
    full = PrivilegedPolicy.from_options(policy.wam, options)
    full.load_training(policy.folder)
    tokens = StreamingTokens(**options.get("provider", {}))
    sense = StreamedSense(*tokens.found(Path(recipe["data"]["root"]), capacity=capacity))
    return replace(policy, wam=AccompaniedPolicy(full).eval()), sense


def evaluate_with_auxiliary(
    checkpoint: str | Path,
    *,
    episodes: int | None = None,
    nfe: Sequence[str] = ("full",),
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    capacity: int = 6,
) -> list[dict[str, Any]]:
    """As `flashwam.evaluation.evaluate` with the modality there, in closed loop alone; a run of its own in comparisons.

    Args:
        checkpoint, episodes, nfe, tasks, seed, out: See `evaluate`.
        capacity: Entries of the cache.
    """
    policy, sense = load_with_auxiliary(checkpoint, capacity=capacity)
    recipe = policy.info.extra["recipe"]
    settings = recipe.get("evaluate", {})
    tasks = tuple(tasks or settings.get("tasks") or recipe["data"]["tasks"])
    episodes = episodes or settings.get("episodes", 50)
    folder = Path(out) if out is not None else policy.run / "with_auxiliary" / "evaluations"
    name, results = f"{policy.name} with auxiliary", []
    for steps in nfe:
        samplers = policy.samplers(steps)
        driver = LocalPolicy(policy.wam, samplers, policy.codec, sensors={"auxiliary": sense})
        driven = []
        for task in tasks:
            driven.append(drive(driver, task, episodes=episodes, seed=seed))
            logger.info("%s %s: %s %d/%d", name, steps, task, sum(driven[-1].success), episodes)
        result = {
            "label": f"{name} {steps}",
            "run": name,
            "kind": policy.info.role,
            "step": policy.info.steps,
            "setting": steps,
            "nfe": {stream: sampler.steps for stream, sampler in samplers.items()},
            "stages": [list(stage) for stage in policy.wam.stages],
            "sampler": "own",
            "asked": {"tasks": list(tasks), "episodes": episodes, "closed_loop": True},
            "tasks": {one.task: task_numbers([one]) | episode_numbers(one) for one in driven},
            "overall": task_numbers(driven),
            "open_loop": None,
            "latency": latency_with_auxiliary(policy, sense, samplers),
            "parameters": {**policy.wam.deployed_parameters(), "auxiliary network": sense.parameter_count},
            "strip": None,
            "seed": seed,
            "cache": capacity,
            "provenance": provenance(),
        }
        path = folder / f"step{policy.info.steps}_{steps.replace('/', '-')}_auxiliary_seed{seed}.json"
        atomic_write(path, (json.dumps(result, indent=1) + "\n").encode())
        results.append(result)
    return results


def latency_with_auxiliary(
    policy: Policy, sense: StreamedSense, samplers: Mapping[str, StreamSampler]
) -> dict[str, float]:
    """`chunk_latency`, and the milliseconds of sensing the pictures of a chunk with a full cache.

    Args:
        policy, sense: From `load_with_auxiliary`.
        samplers: The policy's.
    """
    acting = chunk_latency(policy, samplers)
    still = np.zeros((1, policy.wam.execute_frames, *policy.codec.pictures(_nothing(policy)).shape[2:]), np.uint8)
    sense.reset()
    spent = []
    for _ in range(5):
        before = sense.seconds
        sense.sense(still)
        spent.append(1000 * (sense.seconds - before))
    sensing = statistics.median(spent[2:])
    return {**acting, "chunk_ms": acting["chunk_ms"] + sensing, "part/sense_ms": sensing}


def _nothing(policy: Policy) -> torch.Tensor:
    channels, rows, columns = policy.wam.shapes["video"]
    return torch.zeros(1, channels, 1, rows, columns)
