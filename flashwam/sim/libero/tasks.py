# SPDX-License-Identifier: Apache-2.0
"""One task of LIBERO: its files, its instruction, and the states that its episodes begin in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flashwam.sim.libero.bddl import Problem, parse_problem
from flashwam.system.errors import InputError, MissingFileError, nearest_hint

__all__ = ["INSTRUCTIONS", "LiberoTask", "choose_tasks"]

INSTRUCTIONS = ("file", "name")
"""Sources of a task's instruction."""


@dataclass(frozen=True, kw_only=True)
class LiberoTask:
    """A task of a suite.

    Args:
        suite: Name of the suite.
        index: Place in the suite, from 0.
        name: Name of the task's files; what it says of the task may be out of date in LIBERO-PRO.
        bddl_file: Tells scene, instruction and goal.
        states_file: The initial states.
    """

    suite: str
    index: int
    name: str
    bddl_file: Path
    states_file: Path

    @cached_property
    def problem(self) -> Problem:
        """The task's own words.

        Raises:
            FileNotFoundError, ValueError: The file is missing, or no task.
        """
        if not self.bddl_file.is_file():
            raise MissingFileError(f"{self.suite} task {self.index} has no file {self.bddl_file}: reinstall LIBERO")
        return parse_problem(self.bddl_file.read_text(), str(self.bddl_file))

    @property
    def prompt(self) -> str:
        """The instruction, of the task's file and not of that file's name: LIBERO-PRO changes the one alone."""
        return self.problem.language

    def instruction(self, source: str) -> str:
        """The instruction by a convention: "file" for `prompt`, "name" for the words of the file's name.

        Raises:
            ValueError: There is no such source.
        """
        if source not in INSTRUCTIONS:
            raise InputError(f"instruction must be one of {', '.join(INSTRUCTIONS)}; got {source!r}")
        if source == "file":
            return self.prompt
        return re.sub(r"^[A-Z_]+SCENE\d+_", "", self.name).replace("_", " ")

    @cached_property
    def states(self) -> np.ndarray:
        """Time, positions and velocities at the beginning of every episode, float64 [50, n] in most suites.

        Raises:
            FileNotFoundError: The suite comes without them.
        """
        if not self.states_file.is_file():
            raise MissingFileError(
                f"{self.suite} has no initial states of {self.name} ({self.states_file}): drive a suite that has them"
            )
        with np.load(self.states_file, allow_pickle=False) as file:
            return np.asarray(file["states"], dtype=np.float64)


def choose_tasks(tasks: Sequence[LiberoTask], asked: Sequence[str] | None) -> tuple[LiberoTask, ...]:
    """Looks tasks of a suite up.

    Args:
        tasks: All of the suite.
        asked: Numbers from 0, or names; all if None or empty.

    Returns:
        Those that were asked for, each once, in the suite's order.

    Raises:
        ValueError: A number or name is unknown; the message names the nearest one.
    """
    if not asked:
        return tuple(tasks)
    by_name = {task.name: task for task in tasks} | {str(task.index): task for task in tasks}
    for name in asked:
        if name not in by_name:
            hint = nearest_hint(name, by_name)
            raise InputError(
                f"{tasks[0].suite} has no task {name!r}{hint} Give numbers from 0 to {len(tasks) - 1}, or names such "
                f"as {tasks[0].name!r}"
            )
    chosen = {by_name[name].index for name in asked}
    return tuple(task for task in tasks if task.index in chosen)
