# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of a chunk, of one model and of several in turns."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashwam.core.steps import nfe_text
from flashwam.evaluation.policy import Policy
from flashwam.run.model_note import MODELS
from flashwam.sampling import Rollout, StreamSampler
from flashwam.system.files import write_whole
from flashwam.system.paths import user_path
from flashwam.system.stage_clock import stage_clock
from flashwam.wam.base import WorldActionModel

__all__ = [
    "LATENCY_CHUNKS",
    "chunk_latency",
    "draw_latency",
    "latency_label",
    "latency_table",
    "latency_timers",
    "time_in_turns",
]

LATENCY_CHUNKS = 7


def chunk_latency(
    policy: Policy, samplers: Mapping[str, StreamSampler], *, chunks: int = LATENCY_CHUNKS
) -> dict[str, float]:
    """`draw_latency` of a policy, whose codec has an empty prompt."""
    return draw_latency(policy.wam, samplers, policy.codec.text(""), chunks=chunks)


def draw_latency(
    wam: WorldActionModel, samplers: Mapping[str, StreamSampler], text: Tensor, *, chunks: int = LATENCY_CHUNKS
) -> dict[str, float]:
    """Milliseconds per stage and chunk at batch 1: medians, the first chunk left out as warm-up; beside them, as
    "part/<name>_ms", those of the parts that a model tells apart. A chunk is its stages together, each from a device
    with nothing left to do until it has nothing left to do again.

    Args:
        wam: What is timed, where it is.
        samplers: How its streams are drawn.
        text: Of a prompt, [L, D].
        chunks: Chunks in a row, at least 2.
    """
    device = next(wam.parameters()).device
    first = {n: torch.zeros(1, c, 1, h, w, device=device) for n, (c, h, w) in wam.layout.observed_shapes.items()}
    unseen = {name: x.expand(-1, -1, wam.chunk_frames, -1, -1) for name, x in first.items()}
    text = text.to(device)
    rollout = Rollout(wam, samplers, text=text[None], null_text=text, first=first, clock=stage_clock(device))
    clocks: list[Callable[[], Mapping[str, float]]] = [lambda: rollout.seconds, lambda: rollout.session.part_seconds]
    spent: list[dict[str, list[float]]] = [{}, {}]
    for _ in range(chunks):
        before = [dict(clock()) for clock in clocks]
        drawn = rollout.predict()
        for clock, earlier, values in zip(clocks, before, spent, strict=True):
            for name, seconds in clock().items():
                values.setdefault(name, []).append(1000 * (seconds - earlier.get(name, 0.0)))
        rollout.observe(unseen | drawn)
    stages, parts = ({name: statistics.median(values[1:]) for name, values in group.items()} for group in spent)
    latency = {f"{name}_ms": value for name, value in stages.items()}
    split = {f"part/{name}_ms": value for name, value in parts.items()}
    return {**latency, "chunk_ms": sum(latency.values()), **split}


def latency_table(sources: Sequence[tuple[Policy, str]], *, out: str | Path, rounds: int = 9) -> dict[str, Any]:
    """Times models side by side, in turns, so that a busy moment of the machine falls on all of them.

    Args:
        sources: (policy, steps such as "1v/1a").
        out: Folder that gets `latency.json`, which `compare` prefers to what each evaluation measured for itself; it
            notes the models, too.
        rounds: Turns; the medians are written.

    Returns:
        Label such as "flash_wam 1v/1a" -> milliseconds per stream and chunk at batch 1.
    """
    timers = latency_timers(sources)
    models = {latency_label(policy, policy.samplers(nfe)): policy.note(out) for policy, nfe in sources}
    table = time_in_turns(timers, rounds=rounds)
    write_whole(user_path(out) / "latency.json", json.dumps({**table, MODELS: models}, indent=1) + "\n")
    return table


def latency_timers(sources: Sequence[tuple[Policy, str]]) -> dict[str, Callable[[], dict[str, float]]]:
    """Makes timers for `time_in_turns`, one for each (policy, steps such as "1v/1a"), by the label of its line.

    The policies are rounded as their recipes say, as they are when they are evaluated.
    """
    for policy, _ in sources:
        policy.round_as_told()
    drawn = [(policy, policy.samplers(nfe)) for policy, nfe in sources]
    return {
        latency_label(policy, samplers): partial(chunk_latency, policy, samplers, chunks=3)
        for policy, samplers in drawn
    }


def latency_label(policy: Policy, samplers: Mapping[str, StreamSampler]) -> str:
    """Gives the label of a model's line in `latency.json`, such as "flash_wam 1v/1a" or "flash_wam 1v/1a fp8"."""
    nfe = nfe_text({name: sampler.steps for name, sampler in samplers.items()})
    return f"{policy.name} {nfe}{policy.suffix('own')}"


def time_in_turns(timers: Mapping[str, Callable[[], dict[str, float]]], *, rounds: int = 9) -> dict[str, Any]:
    """Medians of what each timer measures, label -> name -> value; every round asks all of them, one after another."""
    timed = [{label: measure() for label, measure in timers.items()} for _ in range(rounds)]
    return {
        label: {name: statistics.median(turn[label][name] for turn in timed) for name in timed[0][label]}
        for label in timers
    }
