# SPDX-License-Identifier: Apache-2.0
"""From a recipe to a model: its data, what a run begins with, training and distillation.

Imports evaluation and report, and what they import.
"""

from flashwam.evaluation.local import evaluate
from flashwam.pipeline.data import check, collect, dataset, prepare_data
from flashwam.pipeline.sources import convert_raw as convert
from flashwam.pipeline.training import distill, make_pairs, train

__all__ = ["check", "collect", "convert", "dataset", "distill", "evaluate", "make_pairs", "prepare_data", "train"]
