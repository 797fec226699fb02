# SPDX-License-Identifier: Apache-2.0
"""Tasks of LIBERO that small models are collected, trained and compared on.

They are named after their suite and their place in it, such as "libero_object_3", so that a recipe can be read where
LIBERO is not installed.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from flashwam.sim.libero.conventions import CONTROL_HZ, CONTROLS
from flashwam.sim.libero.suites import suite_tasks
from flashwam.sim.libero.tasks import LiberoTask
from flashwam.system.errors import InputError

__all__ = ["SceneTask", "get_task", "is_scene"]

_COUNTS = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
_NAME = re.compile(r"(libero_[a-z0-9]+)_(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneTask:
    """One task, see `flashwam.sim.contract.Task`.

    Args:
        name: The task's name in recipes and folders.
        suite: The suite that its scene is of.
        index: The scene's place in the suite.
        max_steps: Control steps after which an episode has failed.
        words: The instruction; None for that of the scene's file.
        goals: Conditions of which one has to hold, and one for each of `ways`; empty for those of the scene's file.
        ways: Names of the ways.
        axis: Direction in x and y that tells the ways apart.
    """

    name: str
    suite: str
    index: int
    max_steps: int = 200
    words: str | None = None
    goals: tuple[tuple[str, ...], ...] = ()
    ways: tuple[str, ...] = ()
    axis: tuple[float, float] = (0.0, 1.0)
    commit_threshold: float = 0.35
    controls: ClassVar[int] = CONTROLS
    control_hz: ClassVar[int] = CONTROL_HZ
    robot: ClassVar[str] = "panda"
    # Each takes 0.3 GB, with the meshes of everything in the scene.
    together: ClassVar[int] = 4

    @property
    def scene(self) -> LiberoTask:
        """The benchmark's task whose scene this is.

        Raises:
            ImportError: LIBERO is not installed.
        """
        return _scene(self.suite, self.index)

    @property
    def prompt(self) -> str:
        """The instruction that a policy is given."""
        return self.scene.prompt if self.words is None else self.words

    @property
    def multimodal(self) -> bool:
        """True if more than one way leads to success."""
        return len(self.ways) > 1

    @property
    def moving(self) -> bool:
        """No scene goes on by itself."""
        return False


_OWN = {
    # Two bowls lie about equally far from the hand, one to its side and one before it; nothing says which is meant.
    "libero_two_bowls": SceneTask(
        name="libero_two_bowls",
        suite="libero_spatial",
        index=1,
        words="put a black bowl on the plate",
        goals=(("on", "akita_black_bowl_2", "plate_1"), ("on", "akita_black_bowl_1", "plate_1")),
        ways=("front", "side"),
        axis=(-0.63, 0.77),
    ),
}


@lru_cache
def _scene(suite: str, index: int) -> LiberoTask:
    return suite_tasks(suite)[index]


def is_scene(name: str) -> bool:
    """Tells whether a name is meant to be one of LIBERO's."""
    return name.startswith("libero_")


def get_task(name: str) -> SceneTask:
    """Looks a task up by its name.

    Raises:
        ValueError: The name is unknown.
    """
    if name in _OWN:
        return _OWN[name]
    found = _NAME.fullmatch(name)
    if found is None or int(found[2]) >= _COUNTS.get(found[1], 0) or str(int(found[2])) != found[2]:
        suites = ", ".join(f"{suite}_0 to _{count - 1}" for suite, count in _COUNTS.items())
        raise InputError(f"unknown task {name!r} of LIBERO. Known tasks: {suites}, {', '.join(_OWN)}")
    return SceneTask(name=name, suite=found[1], index=int(found[2]))
