# SPDX-License-Identifier: Apache-2.0
"""Everything that is chosen per stream, in one frozen object."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from flashwam.core.checks import check_number
from flashwam.core.consistency import ConsistencyFunction, Linear, make_consistency_function
from flashwam.core.edm import EDMSchedule
from flashwam.core.noise import NoiseSchedule
from flashwam.core.schedule import TRAINING_POINTS, Schedule
from flashwam.core.temperature import MOST_TEMPERATURE
from flashwam.core.vp import VPSchedule
from flashwam.system.errors import InputError
from flashwam.system.imports import find_class, named_parameters

__all__ = ["SCHEDULES", "StreamSpec", "make_schedule", "stream_schedule"]

SCHEDULES: dict[str, type[Schedule]] = {"edm": EDMSchedule, "shift": NoiseSchedule, "vp": VPSchedule}
"""Name in a recipe -> class; "package.module:Class" works as a schedule's name too."""
LOSSES = ("dmd",)
MOST_GUIDANCE = 1000
"""Scales beyond it say nothing but a slip of the pen; published ones lie below 20."""


def make_schedule(config: str | Mapping[str, Any] | Schedule) -> Schedule:
    """Builds a noise schedule from a name, or from a mapping with "name" and the schedule's parameters.

    Args:
        config: {"name": "shift", "shift": 5.0}, {"name": "vp", "snr_shift": 3.0}, "vp", "package.module:Class", or a
            built one.

    Raises:
        ValueError: for an unknown name, an import that fails, or a parameter that is wrong or missing.
    """
    if isinstance(config, Schedule):
        return config
    parameters = named_parameters(config, "schedule")
    name = parameters.pop("name", "")
    kind = find_class(name, Schedule, known=SCHEDULES, what="schedule")
    try:
        built: Schedule = kind(**parameters)
    except TypeError as error:
        takes = [f.name for f in fields(kind)]
        raise InputError(f"schedule {name!r} takes {takes}; got {parameters}: {error}") from error
    return built


def stream_schedule(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a stream's plain values: `shift` for short, or `schedule`.

    Raises:
        ValueError: unless exactly one of the two is given, or as `make_schedule`.
    """
    given = [key for key in ("shift", "schedule") if key in config]
    if len(given) != 1:
        raise InputError(
            "schedule must be given once, as shift: 5.0 or as schedule: {name: vp, snr_shift: 1.0}; got "
            + (" and ".join(given) or "neither")
        )
    if given == ["schedule"]:
        return make_schedule(config["schedule"])
    if not _is_number(config["shift"]):
        raise InputError(f"shift must be a finite number; got {config['shift']!r}")
    return NoiseSchedule(float(config["shift"]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """One stream's choices for distillation and sampling. "Naive" and "flash-wam" differ only in these.

    Args:
        name: The stream's name in the model, such as "video" or "action".
        schedule: Its noise schedule.
        consistency: Its consistency function; the student is sampled with the same one.
        anchors: Points N of the jump grid; one jump spans 1000 / N grid indices, rounded down. So a grid is exact for
            divisors of 1000, and from 501 on one and the same.
        teacher_substeps: Euler steps the teacher takes over one jump; 1 is the published setting.
        guidance: Range (low, high) of the guidance scale w of the teacher's target, v_u + w (v_c - v_u), drawn once
            per step; None for the conditional velocity alone.
        huber_c: c of the pseudo-Huber distance sqrt(d^2 + c^2) - c.
        weight: Weight of the stream's loss; 0 leaves it undistilled.
        regulariser: Weight of what holds the stream beside its loss, flow matching as a rule; 0 for none.
        loss: The stream's loss where it is not the method's own, for methods that know it: "dmd", distribution
            matching, held by the method's own loss with the weight `regulariser`. None for the method's own.
        steps: Steps at inference for the student.
        teacher_steps: Steps at inference for the teacher.
        guidance_scale: The teacher's guidance scale at inference; 1 for none.
        temperature: The student's at inference: a chunk begins with so many times unit noise. Below 1 draws lie nearer
            to each other, at 0 they are one. No training knows of it.
        teacher_temperature: The teacher's at inference, and where a student learns its draws.

    Raises:
        ValueError: for a value outside its range, naming stream, field and value.
    """

    name: str
    schedule: Schedule
    consistency: ConsistencyFunction = field(default_factory=Linear)
    anchors: int = 2
    teacher_substeps: int = 1
    guidance: tuple[float, float] | None = None
    huber_c: float = 1e-3
    weight: float = 1.0
    regulariser: float = 0.0
    loss: Literal["dmd"] | None = None
    steps: int = 1
    teacher_steps: int = 10
    guidance_scale: float = 1.0
    temperature: float = 1.0
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        for key, kind in (("schedule", Schedule), ("consistency", ConsistencyFunction)):
            self._check(key, isinstance(getattr(self, key), kind), f"a {kind.__name__}")
        for key in ("anchors", "teacher_substeps", "steps", "teacher_steps"):
            count = getattr(self, key)
            self._check(key, type(count) is int and 1 <= count <= TRAINING_POINTS, f"whole, 1..{TRAINING_POINTS}")
        for key, low, high in (
            ("huber_c", 1e-12, 1e6),
            ("weight", 0, 1e6),
            ("regulariser", 0, 1e6),
            ("guidance_scale", 0, MOST_GUIDANCE),
            ("temperature", 0, MOST_TEMPERATURE),
            ("teacher_temperature", 0, MOST_TEMPERATURE),
        ):
            check_number(f"stream {self.name!r}: {key}", getattr(self, key), low=low, high=high)
        self._check("loss", self.loss in (None, *LOSSES), f"null or one of {', '.join(LOSSES)}")
        if self.guidance is not None:
            pair = isinstance(self.guidance, tuple) and len(self.guidance) == 2 and all(map(_is_number, self.guidance))
            ordered = pair and 0 <= self.guidance[0] <= self.guidance[1] <= MOST_GUIDANCE
            self._check("guidance", ordered, f"null or [low, high] with 0 <= low <= high <= {MOST_GUIDANCE}")

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if not valid:
            raise InputError(f"stream {self.name!r}: {key} must be {expected}; got {getattr(self, key)!r}")

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> "StreamSpec":
        """Builds a spec from plain values: `shift` or `schedule`, and a name or mapping for `consistency`."""
        values = dict(config)
        known = {f.name for f in fields(cls)} - {"name"} | {"shift"}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"stream {name!r}: unknown {unknown}; expected any of {sorted(known)}")
        try:
            schedule = stream_schedule(values)
        except ValueError as error:
            raise InputError(f"stream {name!r}: {error}") from error
        values = {key: held for key, held in values.items() if key not in ("shift", "schedule")}
        if "consistency" in values:
            values["consistency"] = make_consistency_function(values["consistency"])
        if values.get("guidance") is not None:
            given = values["guidance"]
            numbers = isinstance(given, (list, tuple)) and all(map(_is_number, given))
            values["guidance"] = tuple(float(w) for w in given) if numbers else given
        return cls(name=name, schedule=schedule, **values)

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which `from_config` builds an equal spec; a shifted schedule is written as its `shift`."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "schedule")}
        if isinstance(self.schedule, NoiseSchedule):
            values["shift"] = self.schedule.shift
        else:
            values["schedule"] = self.schedule.config
        values["consistency"] = self.consistency.config
        values["guidance"] = None if self.guidance is None else list(self.guidance)
        # As every version wrote it.
        absent = {"loss": None, "temperature": 1.0, "teacher_temperature": 1.0}
        return {key: value for key, value in values.items() if key not in absent or value != absent[key]}
