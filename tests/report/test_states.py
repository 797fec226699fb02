# SPDX-License-Identifier: Apache-2.0
"""Episodes that begin in a benchmark's initial states are paired by state and seed, and drawn together by state."""

import pytest
from synthetic import write

from flashwam.report.compare import gather
from flashwam.report.table import table_notes


def at_seed(run, seed, won, *, nfe=1, base=0):
    task = {"episodes": 10, "success": sum(won), "outcomes": won, "scenes": [base + k for k in range(10)]}
    told = {"run": run, "kind": "teacher" if nfe > 1 else "student", "step": 9, "nfe": {"video": nfe, "action": nfe}}
    tasks = {"put_x": {**task, "multimodal": False}}
    return {**told, "tasks": tasks, "label": f"{run} {seed}", "seed": seed, "training_seed": 0}


FIRST, SECOND, ALL = [1] * 5 + [0] * 5, [0] * 9 + [1], [1] * 10


@pytest.fixture
def compared(tmp_path):
    teacher = write(tmp_path / "teacher", *(at_seed("teacher", seed, ALL, nfe=10) for seed in (0, 1)))
    student = write(tmp_path / "m", at_seed("m", 0, FIRST), at_seed("m", 1, SECOND))
    return gather([teacher, student], tmp_path / "out")[0]


def test_a_later_seed_does_not_replace_an_earlier_one(compared):
    teacher, student = compared
    kept = student.kept["one-way"]
    assert (kept.value, kept.episodes) == (pytest.approx(6 / 20), 20)
    assert student.pairs(teacher, multimodal=True).episodes == 0


def test_seeds_of_one_state_are_one_scene_of_the_interval(compared, tmp_path):
    apart = [
        write(tmp_path / "apart" / run, *(at_seed(run, s, won, nfe=n, base=1_000_000 + 10_000 * s) for s, won in parts))
        for run, n, parts in (("teacher", 10, [(0, ALL), (1, ALL)]), ("m", 1, [(0, FIRST), (1, FIRST)]))
    ]
    states = [
        write(tmp_path / "states" / run, *(at_seed(run, s, won, nfe=n) for s, won in parts))
        for run, n, parts in (("teacher", 10, [(0, ALL), (1, ALL)]), ("m", 1, [(0, FIRST), (1, FIRST)]))
    ]
    narrow, wide = (gather(runs, tmp_path / "out")[0][1].kept["one-way"] for runs in (apart, states))
    assert narrow.value == wide.value == pytest.approx(0.5)
    assert wide.high - wide.low > narrow.high - narrow.low


def test_the_notes_say_what_wilsons_interval_takes_for_independent(compared, tmp_path):
    assert any("one initial state" in note for note in table_notes(compared))
    (row,) = gather([write(tmp_path / "one", at_seed("m", 0, FIRST))], tmp_path / "out")[0]
    assert not any("one initial state" in note for note in table_notes([row]))
