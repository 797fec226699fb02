# SPDX-License-Identifier: Apache-2.0
"""The second stages of the one-step study: what they go on from, in which order, and how they are held together."""

import re

import pytest
from one_step_cells import DIFFERENCES, SECOND_STAGE, STUDENTS, Place, with_starts
from one_step_differences import COLUMNS, differences, table_of_differences
from one_step_jobs import one_step_jobs

from flashwam.report.row import Row, Share
from flashwam.system.jobs import check_jobs

OWN, FURTHER = "pairs_own_pasts", "pairs_further"


@pytest.fixture
def place(tmp_path):
    return Place(out=tmp_path / "out", results=tmp_path / "results")


def test_both_stages_go_on_from_the_same_student_at_the_same_rate_with_new_draws(place):
    own, further = (place.recipe(name, 1) for name in (OWN, FURTHER))
    assert own.distill.init == further.distill.init == str(place.run("pairs", 1) / "student")
    assert own.seed == further.seed == SECOND_STAGE + 1
    assert place.recipe("pairs", 1).seed == 1
    assert own.distill.lr == further.distill.lr
    assert own.distill.batch_size == further.distill.batch_size
    # What recording and longer pasts cost is the other's to train with.
    assert own.distill.steps < further.distill.steps
    assert own.distill.options["histories"] == str(place.recording("pairs", 1))
    assert "histories" not in further.distill.options
    assert STUDENTS[OWN].seeds == STUDENTS[FURTHER].seeds


def test_a_student_is_made_and_recorded_before_what_learns_from_it(place):
    assert with_starts([OWN]) == ["pairs", OWN]
    jobs = one_step_jobs(place, [OWN], [0])
    check_jobs(jobs)
    after = {job.name: job.after for job in jobs}
    assert after[f"record/{OWN}_0"] == ("make/pairs_0",)
    assert after[f"make/{OWN}_0"] == ("latents", "make/pairs_0", f"record/{OWN}_0")


def row(run, won):
    """One training in four scenes of each of two tasks."""
    outcomes = {(task, scene): scene < count for task, count in won.items() for scene in range(4)}
    tasks = {task: Share(successes=n, episodes=4, multimodal=task == "wall") for task, n in won.items()}
    return Row(
        run=run,
        kind="student",
        step=1,
        final=True,
        nfe={"video": 1, "action": 1},
        sampler="own",
        seeds=((0, tasks),),
        open_loop={},
        latency={},
        outcomes={SECOND_STAGE: outcomes},
    )


def test_the_difference_is_of_the_same_scenes_by_group():
    rows = [row(OWN, {"wall": 4, "button": 2}), row(FURTHER, {"wall": 2, "button": 2})]
    told = list(differences(rows, OWN, FURTHER))
    assert [(one["group"], one["value"], one["episodes"]) for one in told] == [("two-way", 0.5, 4), ("one-way", 0.0, 4)]
    table = table_of_differences({"own less further": told}).splitlines()
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == list(COLUMNS)
    assert re.fullmatch(r"\| own less further +\| 1v/1a +\| 1 +\| \+50\.0 \[.*\] +\| \+0\.0 \[.*\] +\|", table[2])
    assert len(table) == 3
    assert list(differences([row(OWN, {"wall": 4})], OWN, FURTHER)) == []


def test_students_of_the_same_scenes_are_held_against_each_other():
    assert (OWN, FURTHER) in DIFFERENCES
    for one, other in DIFFERENCES:
        assert other == "teacher" or set(STUDENTS[one].seeds) <= set(STUDENTS[other].seeds)
        # The guided teacher's own ratio is in a comparison of its own.
        assert other != "teacher" or not STUDENTS[one].guided
