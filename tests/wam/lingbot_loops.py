# SPDX-License-Identifier: Apache-2.0
"""Closed loops of tiny LingBot-VA sessions: noise and pictures are others in every chunk, whatever was imagined."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from flashwam.wam.session import RolloutSession

Drawn = list[tuple[str, Tensor]]


def labelled_loop(
    session: RolloutSession,
    seen: Mapping[str, Tensor],
    steps: Mapping[str, int],
    *,
    chunk: int,
    chunks: int,
    imagined: Collection[str] = ("video",),
) -> Drawn:
    """Chunks drawn with Euler steps, each with its name; those of `imagined` enter the cache until the real ones, of
    `seen`, replace them."""
    drawn = []
    for start in range(0, chunks * chunk, chunk):
        for stream, count in steps.items():
            x = torch.randn(seen[stream][:, :, :chunk].shape, generator=torch.Generator().manual_seed(start))
            for k in range(count):
                sigma = torch.full((len(x), chunk), 1 - k / count)
                x = x - session.velocity({stream: x}, {stream: sigma})[stream] / count
            drawn.append((f"chunk {start // chunk}, {stream}", x))
            if stream in imagined:
                session.append(stream, x, predicted=True)
        session.drop_predicted()
        for stream in steps:
            session.append(stream, seen[stream][:, :, start : start + chunk], predicted=False)
        session.advance(chunk)
    return drawn


def drawn_chunks(
    session: RolloutSession, seen: Mapping[str, Tensor], steps: Mapping[str, int], *, chunk: int, chunks: int
) -> list[Tensor]:
    """The chunks of `labelled_loop` alone."""
    return [x for _, x in labelled_loop(session, seen, steps, chunk=chunk, chunks=chunks)]
