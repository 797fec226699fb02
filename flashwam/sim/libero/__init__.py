# SPDX-License-Identifier: Apache-2.0
"""LIBERO and LIBERO-PRO: suites of manipulation tasks for one robot arm, told in language (docs/simulators.md).

Everything of the benchmark itself comes from packages of their own, and is imported when it is used.

A part of sim.
"""

from flashwam.sim.libero.conventions import CONVENTIONS, Convention, get_convention
from flashwam.sim.libero.env import LiberoEnv
from flashwam.sim.libero.suites import STANDARD_SUITES, horizon_of, suite_names, suite_tasks
from flashwam.sim.libero.tasks import LiberoTask, choose_tasks

__all__ = [
    "CONVENTIONS",
    "STANDARD_SUITES",
    "Convention",
    "LiberoEnv",
    "LiberoTask",
    "choose_tasks",
    "get_convention",
    "horizon_of",
    "suite_names",
    "suite_tasks",
]
