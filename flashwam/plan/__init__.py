# SPDX-License-Identifier: Apache-2.0
"""Cost of a run before it starts: parameters, memory, steps, time; and what serving its model takes.

Imports distillation and sim, and what they import.
"""

from flashwam.plan.dry_run import Plan, make_plan
from flashwam.plan.names import check_names
from flashwam.plan.serving import ServingPlan, plan_serving, serving_lines, serving_numbers
from flashwam.plan.table import plan_lines, plan_numbers
from flashwam.plan.training import TrainingPlan, plan_training

__all__ = [
    "Plan",
    "ServingPlan",
    "TrainingPlan",
    "check_names",
    "make_plan",
    "plan_lines",
    "plan_numbers",
    "plan_serving",
    "plan_training",
    "serving_lines",
    "serving_numbers",
]
