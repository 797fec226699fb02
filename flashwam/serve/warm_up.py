# SPDX-License-Identifier: Apache-2.0
"""A trial episode before the first robot's, in which everything is compiled and recorded."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from flashwam.sampling import Rollout
from flashwam.serve.model import ServedModel

__all__ = ["warm_up"]

logger = logging.getLogger(__name__)

_EVERY = 5.0
"""Seconds between two lines of progress."""


def warm_up(model: ServedModel, *, stopped: Callable[[], bool] = lambda: False) -> int:
    """Draws chunks until the model has met every kind of pass, where kinds have to be made ready.

    A stream is drawn in two steps at most: the second is like all that follow.

    Args:
        model: What is served.
        stopped: Asked between chunks; True ends it.

    Returns:
        Chunks drawn.
    """
    chunks = model.wam.warm_up_chunks
    if not chunks:
        return 0
    began = said = time.perf_counter()
    logger.info("warming up: drawing %d chunks of a trial episode", chunks)
    rollout = _trial(model)
    for drawn in range(chunks):
        if stopped():
            return drawn
        rollout.predict()
        executed = rollout.executed
        before = executed.start if model.wam.conditions_on_first else 0
        rollout.observe(_nothing_seen(model, executed.stop - before))
        now = time.perf_counter()
        if now - said > _EVERY:
            said = now
            logger.info("warming up: chunk %d of %d after %.0f s", drawn + 1, chunks, now - began)
    logger.info("warm after %.0f s", time.perf_counter() - began)
    return chunks


def _trial(model: ServedModel) -> Rollout:
    codec, device = model.codec(), next(model.wam.parameters()).device
    guided = any(sampler.guidance_scale != 1 for sampler in model.samplers.values())
    return Rollout(
        model.wam,
        {name: replace(sampler, steps=min(sampler.steps, 2)) for name, sampler in model.samplers.items()},
        text=codec.text("").to(device),
        null_text=codec.text("")[0].to(device) if guided else None,
        first=_nothing_seen(model, 1),
        generator=torch.Generator().manual_seed(0),
    )


def _nothing_seen(model: ServedModel, frames: int) -> dict[str, Tensor]:
    device = next(model.wam.parameters()).device
    sizes = {**model.wam.shapes, **{name: (count, 1, 1) for name, count in model.wam.senses.items()}}
    return {name: torch.zeros(1, c, frames, h, w, device=device) for name, (c, h, w) in sizes.items()}
