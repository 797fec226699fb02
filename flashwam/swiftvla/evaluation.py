# SPDX-License-Identifier: Apache-2.0
"""Drives a policy of masked reconstruction unstripped, with the modality that its training had beside the pictures."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashwam.evaluation.driven_tasks import DrivenTasks
from flashwam.evaluation.driving import drive_tasks, overall_numbers, task_numbers
from flashwam.evaluation.latency import LATENCY_CHUNKS, chunk_latency
from flashwam.evaluation.policy import Policy, described, load_policy
from flashwam.run.evaluation import Asked, Evaluation, evaluation_name, measure_once
from flashwam.run.model_info import ModelInfo, model_folder
from flashwam.sampling import StreamSampler
from flashwam.sim.closed_loop import drive
from flashwam.sim.local_policy import LocalPolicy
from flashwam.swiftvla.accompanied import AccompaniedPolicy
from flashwam.swiftvla.sense import StreamedSense
from flashwam.swiftvla.streaming_tokens import StreamingTokens
from flashwam.swiftvla.tokens import TokenStore
from flashwam.swiftvla.training_policy import PrivilegedPolicy
from flashwam.system.errors import InputError
from flashwam.system.imports import trusting
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = ["evaluate_with_auxiliary", "latency_with_auxiliary", "load_with_auxiliary"]


def load_with_auxiliary(
    folder: str | Path, *, capacity: int | None = None, trust: bool = False
) -> tuple[Policy, StreamedSense]:
    """A policy that `masked_reconstruction` trained, with its modality, and what senses that.

    Args:
        folder: The policy's or its run's.
        capacity: Entries of the cache, of those that it was trained with; the most of these if None.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        ValueError: It was trained without a modality, on recordings, or never with such a cache, or the tokens of its
            data are another network's.
        FileNotFoundError: The network or the tokens' statistics are not where its recipe says.
    """
    folder = model_folder(folder)
    with trusting(trust):
        recipe = ModelInfo.read(folder).recipe
    options = {} if recipe is None else recipe.train.options
    if recipe is None or not options.get("auxiliary"):
        raise InputError(f"{folder} was trained without an auxiliary modality: evaluate it as it is")
    if not recipe.data.simulated:
        raise InputError(
            f"{folder} was trained on recordings, for which there is no simulator that would show it pictures while it "
            "acts: evaluate it as it is deployed, without --auxiliary"
        )
    policy = load_policy(folder, trust=trust)
    full = PrivilegedPolicy.from_options(policy.wam, options)
    full.load_training(policy.folder)
    tokens = StreamingTokens(**options.get("provider", {}))
    capacity = max(tokens.capacities) if capacity is None else capacity
    if capacity not in tokens.capacities:
        known = ", ".join(map(str, sorted(tokens.capacities)))
        raise InputError(f"{folder} was trained with caches of {known} entries; asked for one of {capacity}")
    kept = TokenStore.of_policy(folder)
    found = tokens.found(user_path(recipe.data.root), recipe.data.tasks, capacity=capacity, store=kept)
    sense = StreamedSense(*found)
    return replace(policy, wam=AccompaniedPolicy(full).eval()), sense


def evaluate_with_auxiliary(
    checkpoint: str | Path,
    *,
    episodes: int | None = None,
    nfe: Sequence[str] = ("full",),
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    capacity: int | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """As `flashwam.evaluation.local.evaluate` with the modality there, in closed loop alone; a run of its own in
    comparisons.
    A setting that was measured before is read, not run again.

    Args:
        checkpoint, episodes, nfe, tasks, seed, out, trust: See `evaluate`.
        capacity: See `load_with_auxiliary`.
    """
    policy, sense = load_with_auxiliary(checkpoint, capacity=capacity, trust=trust)
    tasks, episodes = policy.request(tasks, episodes)
    folder = user_path(out) if out is not None else policy.run.with_auxiliary.evaluations
    results = []
    weights = policy.fingerprint
    for steps in nfe:
        settings = {"model": weights, **policy.said(policy.samplers(steps))}
        path = folder / f"{evaluation_name(policy.info.steps, steps, 'auxiliary', seed)}.json"
        asked = Asked(tasks=tasks, episodes=episodes, cache=sense.capacity, settings=settings)
        results.append(measure_once(path, asked, partial(_measure, policy, sense, steps, asked, seed, path)).to_json())
    return results


def _measure(policy: Policy, sense: StreamedSense, nfe: str, asked: Asked, seed: int, path: Path) -> Evaluation:
    name, samplers = f"{policy.name} with auxiliary", policy.samplers(nfe)
    driver = LocalPolicy(policy.wam, samplers, policy.codec, sensors={"auxiliary": sense})
    kept = DrivenTasks(path, {"asked": asked.to_json(), "setting": nfe, "seed": seed})
    drive_one = partial(drive, driver, episodes=asked.episodes, seed=seed)
    driven = drive_tasks(drive_one, asked.tasks, f"{name} {nfe}", kept=kept)
    return Evaluation(
        run=name,
        setting=nfe,
        tasks=task_numbers(driven),
        overall=overall_numbers(driven),
        **described(policy, samplers),
        asked=asked,
        latency=latency_with_auxiliary(policy, sense, samplers),
        parameters={**policy.wam.deployed_parameters(), "auxiliary network": sense.parameter_count},
        seed=seed,
        provenance=provenance(),
    )


def latency_with_auxiliary(
    policy: Policy, sense: StreamedSense, samplers: Mapping[str, StreamSampler], *, chunks: int = LATENCY_CHUNKS
) -> dict[str, float]:
    """`chunk_latency`, and the milliseconds of sensing the pictures of a chunk with a full cache.

    Args:
        policy, sense: From `load_with_auxiliary`.
        samplers: The policy's.
        chunks: See `chunk_latency`.
    """
    acting = chunk_latency(policy, samplers, chunks=chunks)
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
