# SPDX-License-Identifier: Apache-2.0
"""Controls as people read them: names, and units where the data say what a control is.

Letters: U controls of the robot, V values shown of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashwam.data.poses import ARM_WIDTH

__all__ = ["ControlNames", "named_controls", "nearer_turns", "shorter_turns"]

_ARMS = {1: ("",), 2: ("left ", "right ")}
_POSE = (
    ("x", "mm"),
    ("y", "mm"),
    ("z", "mm"),
    ("turn x", "deg"),
    ("turn y", "deg"),
    ("turn z", "deg"),
    ("gripper", ""),
)
_TURN = 3
_MILLIMETRES = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNames:
    """Names and units of the values that are shown of a robot's controls.

    Attributes:
        names: Of each of V values.
        units: Of each; empty for the data's own.
        poses: The controls are poses [xyz in metres, quaternion xyzw, gripper] per arm, of which millimetres, a
            rotation vector in degrees and the gripper are shown: V = 7 per arm.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    poses: bool = False

    @classmethod
    def of_data(cls, count: int, *, relative: bool, info: Mapping[str, Any] | None = None) -> "ControlNames":
        """The names that data give their controls, or plain numbers.

        Args:
            count: U.
            relative: The controls are relative poses, see `ControlSpace`.
            info: The `meta/info.json` of a data set, which may name its actions.
        """
        if relative:
            arms = count // ARM_WIDTH
            prefixes = _ARMS.get(arms, tuple(f"arm {number} " for number in range(arms)))
            told = [(f"{prefix}{name}", unit) for prefix in prefixes for name, unit in _POSE]
            return cls(names=tuple(name for name, _ in told), units=tuple(unit for _, unit in told), poses=True)
        named = named_controls((info or {}).get("features"))
        names = named if len(named) == count else tuple(f"control {number}" for number in range(count))
        return cls(names=names, units=("",) * count)

    @property
    def with_units(self) -> tuple[str, ...]:
        """Names with their units: "x, mm"."""
        return tuple(f"{name}, {unit}" if unit else name for name, unit in zip(self.names, self.units, strict=True))

    @property
    def turns(self) -> tuple[int, ...]:
        """The first value of each turn, a rotation vector that takes three."""
        return tuple(range(_TURN, len(self.names), len(_POSE))) if self.poses else ()

    def readable(self, controls: np.ndarray, *, near: np.ndarray | None = None) -> np.ndarray:
        """Controls in raw units [..., U] -> what is shown, float64 [..., V]; a quaternion of zeros is no turn.

        Args:
            controls: Those.
            near: What is shown of others that these are held against, [..., V] to be broadcast: of the two rotation
                vectors of a turn, at most half of one about an axis and the rest of a whole one about its opposite, the
                nearer is taken, so that differences are those of the poses. Half a turn at most if None.
        """
        controls = np.asarray(controls, dtype=np.float64)
        if not self.poses:
            return controls
        from scipy.spatial.transform import Rotation

        arms = controls.reshape(*controls.shape[:-1], -1, ARM_WIDTH)
        turns = arms[..., 3:7].reshape(-1, 4)
        # No robot means a zero quaternion, but an untrained model may draw one.
        turns = np.where(np.linalg.norm(turns, axis=1, keepdims=True) > 0, turns, (0.0, 0.0, 0.0, 1.0))
        vectors = Rotation.from_quat(turns).as_rotvec(degrees=True).reshape(*arms.shape[:-1], 3)
        if near is not None:
            vectors = nearer_turns(
                vectors, np.reshape(near, (*near.shape[:-1], -1, len(_POSE)))[..., _TURN : _TURN + 3]
            )
        parts = (_MILLIMETRES * arms[..., :3], vectors, arms[..., 7:])
        return np.concatenate(parts, axis=-1).reshape(*controls.shape[:-1], -1)


def nearer_turns(vectors: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Of both rotation vectors of each turn, in degrees [..., 3], that which is nearer to another."""
    others = _others(vectors)
    apart, other_apart = (np.linalg.norm(each - near, axis=-1, keepdims=True) for each in (vectors, others))
    return np.where(other_apart < apart, others, vectors)


def shorter_turns(vectors: np.ndarray) -> np.ndarray:
    """Of both rotation vectors of each turn, in degrees [..., 3], that of half a turn at most."""
    return np.where(np.linalg.norm(vectors, axis=-1, keepdims=True) > 180, _others(vectors), vectors)


def _others(vectors: np.ndarray) -> np.ndarray:
    """The other rotation vector of each turn, the rest of a whole one about the opposite axis; no turn has no other."""
    angles = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors * np.where(angles > 0, 1 - 360 / np.where(angles > 0, angles, 360), 1)


def named_controls(features: Any, key: str = "action") -> tuple[str, ...]:
    """The names of an action's dimensions, flat or grouped as LeRobot writes them; none where they are not told.

    Args:
        features: Those of a `meta/info.json`, or what stands there in their place.
        key: Column of the actions.
    """
    feature = features.get(key) if isinstance(features, Mapping) else None
    names = feature.get("names") if isinstance(feature, Mapping) else None
    if isinstance(names, Mapping):
        names = [name for group in names.values() for name in (group if isinstance(group, Sequence) else ())]
    ok = isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names)
    return tuple(names) if ok else ()
