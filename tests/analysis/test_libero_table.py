# SPDX-License-Identifier: Apache-2.0
"""The table of the study on LIBERO: successes by suite, and the time that successful episodes took."""

import pytest
from libero_table import libero_table, task_time

from flashwam.run.evaluation import Evaluation
from flashwam.run.task_numbers import TaskNumbers
from flashwam.sim.simulators import get_task


def numbers(task, lengths, *, ways=()):
    """Episodes that succeed after so many controls, or fail at the limit where that is None."""
    limit = get_task(task).max_steps
    return TaskNumbers(
        episodes=len(lengths),
        success=sum(length is not None for length in lengths),
        multimodal=bool(ways),
        ways={way: ways.count(way) for way in ("-1", "0", "1")},
        steps=sum(limit if length is None else length for length in lengths) / len(lengths),
    )


def test_failures_do_not_lengthen_the_time_of_a_task():
    assert task_time([("libero_object_0", numbers("libero_object_0", [100, 140, None]))]) == pytest.approx(6.0)
    both = [
        ("libero_object_0", numbers("libero_object_0", [100, None])),
        ("libero_spatial_8", numbers("libero_spatial_8", [60, 80, None])),
    ]
    assert task_time(both) == pytest.approx((5 + 3 + 4) / 3)
    assert task_time([("libero_object_0", numbers("libero_object_0", [None, None]))]) is None


def test_a_row_holds_every_seed_of_a_model(tmp_path):
    for run, kind, steps in (("teacher", "teacher", 10), ("pairs", "student", 1)):
        for seed in (0, 1):
            tasks = {
                "libero_object_0": numbers("libero_object_0", [100, None]),
                "libero_object_3": numbers("libero_object_3", [140, 120 if run == "pairs" else None]),
                "libero_two_bowls": numbers("libero_two_bowls", [None, 120 + 40 * seed], ways=["0", "1"]),
            }
            one = Evaluation(run=run, kind=kind, nfe={"video": steps, "action": steps}, tasks=tasks, seed=seed)
            one.write(tmp_path / run / "evaluations" / f"seed{seed}.json")
    table = libero_table([tmp_path / "teacher", tmp_path / "pairs"], tmp_path / "comparison")
    assert table.splitlines()[2:] == [
        "| teacher 10v/10a | 4/8 | 0/0 | 2/4 | 2/2 | 6.0 | 7.0 |",
        "| pairs 1v/1a | 6/8 | 0/0 | 2/4 | 2/2 | 6.0 | 7.0 |",
    ]
