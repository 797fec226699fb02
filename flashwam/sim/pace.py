# SPDX-License-Identifier: Apache-2.0
"""The time that a world goes on for while a chunk is computed, and what its robot does meanwhile."""

import math
from dataclasses import dataclass

from flashwam.sim.tasks import CONTROL_HZ
from flashwam.system.errors import InputError

__all__ = ["MEANWHILE", "Pace"]

MEANWHILE = ("hold", "go_on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The clock of a world that does not wait for its policy.

    Every chunk is executed a latency after the picture that it was drawn from. A robot that holds executes a chunk to
    its end, then looks, and stays where its last control sent it until the next chunk has come. One that goes on looks
    earlier, a latency before the end in whole latent frames, and executes the rest of its chunk while the next one is
    computed; the policy is told those controls as executed. It has executed at least the first frame of a chunk when it
    looks, so that something is seen between two chunks, and holds for what is left of a longer latency. Before an
    episode's first chunk there is nothing to go on with, and the robot holds.

    Args:
        latency_ms: Milliseconds from a picture to the chunk drawn from it.
        meanwhile: "hold" or "go_on".
        control_hz: Controls that the robot executes in a second; the simulator's own by default. A lower number is the
            same as a world that is so much slower.
        patience: An episode may last so many times its task's own limit, waiting included, unless its scene moves.

    Raises:
        ValueError: A number is out of range, or `meanwhile` unknown.
    """

    latency_ms: float = 0.0
    meanwhile: str = "hold"
    control_hz: float = CONTROL_HZ
    patience: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_ms) and self.latency_ms >= 0):
            raise InputError(f"latency must be milliseconds, 0 or more; got {self.latency_ms:g}")
        for name in ("control_hz", "patience"):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise InputError(f"{name} must be above 0; got {value:g}")
        if self.meanwhile not in MEANWHILE:
            raise InputError(f"meanwhile must be one of {', '.join(MEANWHILE)}; got {self.meanwhile!r}")

    @property
    def controls(self) -> int:
        """Controls that pass while a chunk is computed; one that has begun passes whole."""
        # Rounded first, so that 12.5 ms at 80 Hz are one control and not two.
        return math.ceil(round(self.latency_ms * self.control_hz / 1000, 6))

    def under_way(self, frames: int, per_frame: int) -> int:
        """Last latent frames of a chunk that are still to be executed when the robot looks.

        Args:
            frames: Those of the chunk that are executed.
            per_frame: Controls of one.
        """
        return 0 if self.meanwhile == "hold" else max(0, min(math.ceil(self.controls / per_frame), frames - 1))

    def limit(self, steps: int) -> int:
        """Controls that an episode may last, of a task that allows `steps`."""
        return math.ceil(round(steps * self.patience, 6))
