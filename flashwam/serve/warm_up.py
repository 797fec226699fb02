# SPDX-License-Identifier: Apache-2.0
"""Trial episodes before the first robot's, in which everything is compiled and recorded."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashwam.sampling import Rollout
from flashwam.serve.codec import ObservationCodec
from flashwam.serve.model import ServedModel

__all__ = ["warm_up"]

logger = logging.getLogger(__name__)

_EVERY = 5.0
"""Seconds between two lines of progress."""


def warm_up(model: ServedModel, *, sessions: int = 1, stopped: Callable[[], bool] = lambda: False) -> int:
    """Draws chunks until the model has met every kind of pass, where kinds have to be made ready.

    A stream is drawn in two steps at most: the second is like all that follow.

    Args:
        model: What is served.
        sessions: At a time; each is made ready, as far as the model can.
        stopped: Asked between chunks; True ends it.

    Returns:
        Chunks drawn.
    """
    chunks, sessions = model.wam.warm_up_chunks, min(sessions, model.wam.warm_up_sessions)
    if chunks or model.metadata.get("encoder", "plain") != "plain":
        _encode(model)
    if not chunks:
        return 0
    began = time.perf_counter()
    logger.info("warming up: drawing %d chunks of a trial episode for each of %d sessions", chunks, sessions)
    drawn = 0
    # Held until all are ready, so that each has its own.
    opened: list[Rollout] = []
    for number in range(1, sessions + 1):
        try:
            opened.append(_trial(model))
            drawn += _draw(model, opened[-1], chunks, stopped=stopped, told=f"session {number} of {sessions}")
        except torch.OutOfMemoryError:
            if number == 1:
                raise
            logger.warning("the device has memory to make %d session(s) at a time ready, not %d", number - 1, sessions)
            break
        if drawn < number * chunks:
            return drawn
    logger.info("warm after %.0f s", time.perf_counter() - began)
    return drawn


def _encode(model: ServedModel) -> None:
    """Encodes black pictures until every kind of pass has been met: the first one, and two latent frames later."""
    facts, codec = model.metadata, model.codec()
    if not facts.get("cameras"):
        return
    began = time.perf_counter()
    black = np.zeros((*facts["picture_size"], 3), np.uint8)
    seen: dict[str, Any] = dict.fromkeys(facts["cameras"], black)
    codec.encode([seen])
    for _ in range(3):
        codec.encode([seen] * facts["keyframes_per_frame"])
    logger.info("the encoder of pictures is warm after %.1f s", time.perf_counter() - began)


def _draw(model: ServedModel, rollout: Rollout, chunks: int, *, stopped: Callable[[], bool], told: str) -> int:
    """Draws and observes as for a robot that goes on, which meets what one that holds meets and passes of its own."""
    began = said = time.perf_counter()
    goes_on = not (model.wam.conditions_on_first or model.wam.layout.never_imagined)
    late, under_way = 0, min(1, model.wam.chunk_frames - 1) if goes_on else 0
    for drawn in range(chunks):
        if stopped():
            return drawn
        rollout.predict()
        executed = rollout.executed
        frames = executed.stop - (executed.start if model.wam.conditions_on_first else 0)
        seen = _nothing_seen(model, late + frames - under_way) | {"action": _nothing_seen(model, frames)["action"]}
        rollout.observe(seen, under_way=under_way)
        late, now = under_way, time.perf_counter()
        if now - said > _EVERY:
            said = now
            logger.info("warming up %s: chunk %d of %d after %.0f s", told, drawn + 1, chunks, now - began)
    return chunks


def _trial(model: ServedModel) -> Rollout:
    codec, device = model.codec(), next(model.wam.parameters()).device
    guided = any(sampler.guidance_scale != 1 for sampler in model.samplers.values())
    null_text = codec.text("").to(device) if guided else None
    return Rollout(
        model.wam,
        {name: replace(sampler, steps=min(sampler.steps, 2)) for name, sampler in model.samplers.items()},
        text=_trial_text(model, codec).to(device) if null_text is None else null_text,
        null_text=None if null_text is None else null_text[0],
        first=_nothing_seen(model, 1),
        generator=torch.Generator().manual_seed(0),
    )


def _trial_text(model: ServedModel, codec: ObservationCodec) -> Tensor:
    """Any text [1, L, D], of which the shape alone matters: no prompt need be embedded for a trial."""
    rows, width = codec.text_rows, model.wam.text_shape[1]
    return torch.zeros(1, rows, width) if rows and width else codec.text("")


def _nothing_seen(model: ServedModel, frames: int) -> dict[str, Tensor]:
    device = next(model.wam.parameters()).device
    sizes = {**model.wam.shapes, **{name: (count, 1, 1) for name, count in model.wam.senses.items()}}
    return {name: torch.zeros(1, c, frames, h, w, device=device) for name, (c, h, w) in sizes.items()}
