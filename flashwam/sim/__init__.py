# SPDX-License-Identifier: Apache-2.0
"""The simulator: tasks, scripted experts, demonstrations, and models driven in closed loop.

Imports sampling, and what it imports.
"""

from flashwam.sim.simulators import get_task
from flashwam.sim.tasks import TASKS, TaskSpec, task_names
from flashwam.sim.ways import commitment, way_of

__all__ = ["TASKS", "TaskSpec", "commitment", "get_task", "task_names", "way_of"]
