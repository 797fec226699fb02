# SPDX-License-Identifier: Apache-2.0
"""The clock of an evaluation whose world did not wait for the policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flashwam.system.errors import InputError
from flashwam.system.json_file import Measured

__all__ = ["MEANWHILE", "RealTime", "both_habits"]

MEANWHILE = {"hold": "holds", "go_on": "goes on"}
"""Words for what a robot does while a chunk is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealTime:
    """Time as it went on while the model computed; in a request, as it is to go on.

    Args:
        latency_ms: Milliseconds from a picture to the chunk drawn from it. In a request None, for what is measured here
            times `scale`.
        scale: Of a measured latency.
        meanwhile: What the robot does while a chunk is computed: "hold", or "go_on" with the rest of the last one.
        control_hz: Controls that it executes in a second.
        patience: An episode may last so many times its task's own limit.

    Raises:
        ValueError: A latency is given and scaled too.
    """

    latency_ms: Measured | None = None
    scale: Measured = 1.0
    meanwhile: str = "hold"
    control_hz: Measured = 80.0
    patience: Measured = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"the scale of a latency must be above 0; got {self.scale:g}")

    @property
    def name(self) -> str:
        """Of a request: what tells its file from others, such as "hold_348ms" or "go_on_measured-x0.1_20hz"."""
        scaled = "" if self.scale == 1 else f"-x{self.scale:g}"
        parts = [
            self.meanwhile,
            f"measured{scaled}" if self.latency_ms is None else f"{self.latency_ms:g}ms",
            *([] if self.control_hz == RealTime().control_hz else [f"{self.control_hz:g}hz"]),
            *([] if self.patience == 1 else [f"patience{self.patience:g}"]),
        ]
        return "_".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def both_habits(latencies: Sequence[float], *, control_hz: float, patience: float) -> list[RealTime]:
    """Makes clocks of robots that hold at every latency, and of robots that go on wherever that is something else.

    Args:
        latencies: Milliseconds.
        control_hz, patience: See `RealTime`.
    """
    slow = RealTime(control_hz=float(control_hz), patience=float(patience))
    hold = [replace(slow, latency_ms=float(ms)) for ms in latencies]
    return hold + [replace(clock, meanwhile="go_on") for clock in hold if clock.latency_ms]
