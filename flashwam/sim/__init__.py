# SPDX-License-Identifier: Apache-2.0
"""Closed-loop simulators: tasks, scripted experts, collection of demonstrations, evaluation."""

from flashwam.sim.tasks import TASKS, TaskSpec, commitment, get_task, task_names, way_of

__all__ = ["TASKS", "TaskSpec", "commitment", "get_task", "task_names", "way_of"]
