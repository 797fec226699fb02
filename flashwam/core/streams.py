# SPDX-License-Identifier: Apache-2.0
"""Everything that is chosen per stream, in one frozen object."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from flashwam.core.consistency import ConsistencyFunction, Linear, make_consistency_function
from flashwam.core.noise import TRAINING_POINTS, NoiseSchedule

__all__ = ["StreamSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """One stream's choices for distillation and sampling. "Naive" and "flash-wam" differ only in these.

    Args:
        name: The stream's name in the model, such as "video" or "action".
        schedule: Its noise schedule.
        consistency: Its consistency function; the student is sampled with the same one.
        anchors: Points N of the jump grid; one jump spans 1000 / N grid indices.
        teacher_substeps: Euler steps the teacher takes over one jump; 1 is the published setting.
        guidance: Range (low, high) of the guidance scale w of the teacher's target, v_u + w (v_c - v_u), drawn once
            per step; None for the conditional velocity alone.
        huber_c: c of the pseudo-Huber distance sqrt(d^2 + c^2) - c.
        weight: Weight of the consistency loss; 0 leaves the stream undistilled.
        regulariser: Weight of the flow-matching regulariser; 0 for none.
        steps: Steps at inference for the student.
        teacher_steps: Steps at inference for the teacher.
        guidance_scale: The teacher's guidance scale at inference; 1 for none.

    Raises:
        ValueError: for a value outside its range, naming stream, field and value.
    """

    name: str
    schedule: NoiseSchedule
    consistency: ConsistencyFunction = field(default_factory=Linear)
    anchors: int = 2
    teacher_substeps: int = 1
    guidance: tuple[float, float] | None = None
    huber_c: float = 1e-3
    weight: float = 1.0
    regulariser: float = 0.0
    steps: int = 1
    teacher_steps: int = 10
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        self._check("anchors", 1 <= self.anchors <= TRAINING_POINTS, f"1..{TRAINING_POINTS}")
        self._check("teacher_substeps", self.teacher_substeps >= 1, "at least 1")
        self._check("huber_c", self.huber_c > 0, "positive")
        self._check("weight", self.weight >= 0, "at least 0")
        self._check("regulariser", self.regulariser >= 0, "at least 0")
        self._check("steps", self.steps >= 1, "at least 1")
        self._check("teacher_steps", self.teacher_steps >= 1, "at least 1")
        self._check("guidance_scale", self.guidance_scale >= 0, "at least 0")
        if self.guidance is not None:
            ordered = len(self.guidance) == 2 and 0 <= self.guidance[0] <= self.guidance[1]
            self._check("guidance", ordered, "null or [low, high] with 0 <= low <= high")

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"stream {self.name!r}: {key} must be {expected}; got {getattr(self, key)}")

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> "StreamSpec":
        """Builds a spec from plain values: `shift` for the schedule, a name or mapping for `consistency`."""
        values = dict(config)
        known = {f.name for f in fields(cls)} - {"name", "schedule"} | {"shift"}
        unknown = sorted(set(values) - known)
        if unknown or "shift" not in values:
            raise ValueError(f"stream {name!r}: unknown {unknown}, or no shift; expected any of {sorted(known)}")
        schedule = NoiseSchedule(float(values.pop("shift")))
        if "consistency" in values:
            values["consistency"] = make_consistency_function(values["consistency"])
        if values.get("guidance") is not None:
            values["guidance"] = tuple(float(w) for w in values["guidance"])
        return cls(name=name, schedule=schedule, **values)

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which `from_config` builds an equal spec."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "schedule")}
        values["shift"] = self.schedule.shift
        values["consistency"] = self.consistency.config
        values["guidance"] = None if self.guidance is None else list(self.guidance)
        return values
