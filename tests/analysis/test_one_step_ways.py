# SPDX-License-Identifier: Apache-2.0
"""Ways are held against the teacher's scene by scene, where both took one."""

import pytest
from one_step_ways import leaning, line

from flashwam.run.evaluation import Evaluation, TaskNumbers


def driven(run, kind, setting, taken, *, seed=0, training=None, sampler="own"):
    numbers = {"episodes": len(taken), "success": 0}
    scenes = tuple(range(len(taken)))
    two_way = TaskNumbers(**numbers, multimodal=True, scenes=scenes, taken=tuple(taken), outcomes=(0,) * len(taken))
    one_way = TaskNumbers(**numbers, multimodal=False, scenes=scenes, outcomes=(0,) * len(taken))
    return Evaluation(
        run=run,
        kind=kind,
        setting=setting,
        nfe={"video": 1, "action": 1},
        sampler=sampler,
        seed=seed,
        training_seed=training,
        tasks={"wall": two_way, "button": one_way},
    )


def test_a_lean_is_counted_over_scenes_in_which_both_took_a_way():
    evaluations = [
        driven("teacher", "teacher", "full", [0, 1, 1, 1, -1]),
        driven("teacher", "teacher", "full", [0, 0, 0, 1, 1], seed=1),
        # The untrained step is no teacher of ways.
        driven("teacher", "teacher", "1v/1a", [1, 1, 1, 1, 1]),
        driven("pairs", "student", "1v/1a", [0, 0, 1, -1, 0], training=0),
        driven("pairs", "student", "1v/1a", [0, 0, 1, 0, 1], seed=1, training=1),
        driven("pairs", "student", "1v/1a", [0, 0, 0, 0, 0], training=0, sampler="t0.5"),
    ]
    (told,) = leaning(evaluations)
    assert told["student"] == "pairs 1v/1a"
    # Three scenes of the first training, five of the second; the scenes of a seed are its own.
    assert (told["trainings"], told["episodes"]) == (2, 8)
    assert (told["left_for_right"], told["right_for_left"]) == (2, 1)
    assert told["same"] == pytest.approx(5 / 8)
    assert (told["left"], told["teacher_left"]) == (pytest.approx(5 / 8), pytest.approx(4 / 8))
    assert told["value"] == pytest.approx(1 / 8)
    assert line(told).startswith("| pairs 1v/1a | 2 | 8 | 0.625 | 2 | 1 | 0.625 | 0.500 | +12.5 [")


def test_without_a_teacher_nothing_leans():
    assert list(leaning([driven("pairs", "student", "1v/1a", [0, 1])])) == []
