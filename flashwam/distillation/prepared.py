# SPDX-License-Identifier: Apache-2.0
"""The draws of a teacher that a method makes before it trains, in numbers that are known without making them."""

from collections.abc import Mapping
from dataclasses import dataclass

from flashwam.sampling import StreamSampler
from flashwam.wam.base import WorldActionModel

__all__ = ["Prepared", "draw_passes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Draws of a teacher that are made and stored before a training.

    Args:
        what: A word for several of them, such as "pairs".
        count: How many distinct ones.
        bytes_each: Of one on disk.
        passes: Streams that are drawn together -> passes of the teacher without gradient for one draw, those without
            text included; empty where nothing is drawn, None where nobody says how the teacher is sampled.
        beside: What is stored with them and not counted, in words; "" for nothing.
    """

    what: str
    count: int
    bytes_each: int
    passes: Mapping[tuple[str, ...], int] | None
    beside: str = ""

    @property
    def bytes(self) -> int:
        """Of all on disk."""
        return self.count * self.bytes_each


def draw_passes(
    model: WorldActionModel, samplers: Mapping[str, StreamSampler], *, chunks: int = 1
) -> dict[tuple[str, ...], int]:
    """Counts a model's passes for some chunks, stage by stage: each step one, or two where a stream is guided."""
    found = {}
    for stage in model.stages:
        guided = any(samplers[name].guidance_scale != 1 for name in stage)
        found[stage] = chunks * max(samplers[name].steps for name in stage) * (2 if guided else 1)
    return found
