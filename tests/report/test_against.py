# SPDX-License-Identifier: Apache-2.0
"""Rows held against each other: what is paired, what an interval rests on, and what the tables then say."""

import numpy as np
import pytest
from synthetic import TASKS, evaluation, latency, write

from flashwam.core.pairing import paired_share_difference
from flashwam.report.against import compare_rows, full_teacher
from flashwam.report.compare import gather
from flashwam.report.table import format_table, table_notes
from flashwam.report.verdict import verdict

RATES = {"drawer-open": 0.8, "window-open": 0.9, "button-press-topdown": 0.7}


def told(run, two_way, *, seed, training, luck=0, nfe=(1, 1), older=False, **rest):
    """An evaluation that tells every episode's outcome: won where the scene's own luck is below the rate."""
    rates = {**RATES, "reach-wall": two_way, "two-ways": two_way}
    result = evaluation(run, nfe=nfe, rates=rates, seed=seed, **rest)
    for number, (name, task) in enumerate(result["tasks"].items()):
        scenes = np.random.default_rng((seed, number)).permuted(np.arange(50) / 50)
        own = np.random.default_rng((seed, number, training, luck)).permuted(scenes)
        won = np.where(np.arange(50) % 4 == 0, own, scenes) < rates[name]
        task |= {"success": int(won.sum()), "outcomes": won.astype(int).tolist()}
        if TASKS[name]:
            task["ways"] = {"-1": 5, "0": 30, "1": 15}
        if not older:
            task["scenes"] = [1_000_000 + 10_000 * seed + episode for episode in range(50)]
    return result if older else {**result, "training_seed": training, "family": "toy"}


def rows_of(folder, *results):
    """The rows of a comparison of runs, a folder a training."""
    for number, result in enumerate(results):
        path = folder / f"{result['run']}_{result.get('training_seed', result['seed'])}"
        write(path, result | {"label": f"{result['label']} {number}"})
    rows, *_ = gather(sorted(folder.iterdir()), folder.parent / "out")
    return {row.label: row for row in rows}


def teacher(**rest):
    return [told("teacher", 0.95, seed=seed, training=0, nfe=(10, 10), kind="teacher", **rest) for seed in range(3)]


@pytest.fixture
def rows(tmp_path):
    students = [
        told(run, rate, seed=seed, training=seed, luck=run == "late", latency=latency(1, 1 + slow))
        for run, rate, slow in (("early", 0.85, 0), ("late", 0.6, 1))
        for seed in range(3)
    ]
    control = [told("teacher", 0.3, seed=seed, training=0, luck=2, kind="teacher") for seed in range(3)]
    chance = [{**told("random", 0.0, seed=s, training=0, luck=3), "nfe": {}, "kind": "baseline"} for s in range(3)]
    return rows_of(tmp_path / "runs", *teacher(), *students, *control, *chance)


def test_each_group_of_tasks_has_a_column_and_a_paired_interval(rows):
    table = [line.split("  ") for line in format_table(list(rows.values())).splitlines()]
    cells = {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in table}
    assert list(cells) == ["model", "-" * 15, "teacher 10v/10a", "teacher 1v/1a", "random", "early 1v/1a", "late 1v/1a"]
    assert cells["model"][:7] == [
        *("NFE", "trainings", "episodes"),
        *("two-way", "two-way, of teacher", "one-way", "one-way, of teacher"),
    ]
    student = rows["early 1v/1a"]
    kept = student.kept["two-way"]
    assert (kept.paired, kept.trainings, kept.episodes) == (True, 3, 300)
    assert kept.low < kept.value < kept.high
    assert kept.value == pytest.approx(student.share(multimodal=True).rate / 0.96, abs=0.02)
    assert cells["early 1v/1a"][:5] == ["2", "3", "750", f"{student.share(multimodal=True).rate:.2f}", kept.ratio_text]
    assert cells["early 1v/1a"][7] == "180/90/30"
    # The teacher is paired with nothing, and its interval is over episodes.
    assert cells["teacher 10v/10a"][3].endswith("]")
    assert cells["teacher 10v/10a"][4] == "-"
    assert cells["random"][:3] == ["-", "-", "750"]
    notes = " ".join(table_notes(list(rows.values())))
    for text in ("holds trainings and scenes", "Wilson's over episodes", "Left/right/none", "the median of all models"):
        assert text in notes


def test_the_verdict_names_trainings_scenes_and_pairing(rows):
    sentences = verdict(list(rows.values()))
    assert sentences[0].startswith("**early 1v/1a** succeeds on the two-way tasks in 8")
    assert "(95 % interval 0." in sentences[0]
    assert sentences[0].count("of its teacher's success") == 2
    assert "surely less than all of it" in sentences[0]
    assert sentences[1].startswith("This rests on 3 trainings, 750 episodes, each paired")
    assert sentences[1].endswith("in the same scene; intervals hold both.")
    assert any("on the two-way tasks, early is surely ahead of late" in s and "3 trainings." in s for s in sentences)
    assert any(s.startswith("The control, the teacher without any distillation at 1v/1a") for s in sentences)
    assert any(s.startswith("Random actions succeed in 0% on the two-way tasks") for s in sentences)
    assert any("left/right/none 180/90/30" in s for s in sentences)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.3, "in 5 network evaluations for 2: early 1v/1a is ahead, and faster."),
        (0.85, "in 5 network evaluations for 2: early 1v/1a is not told from it, and faster."),
        (0.98, "in 5 network evaluations for 2: who can wait for them needs no student."),
    ],
)
def test_a_student_is_held_against_more_steps_of_the_untrained_teacher(tmp_path, rate, words):
    """At steps that no student has, and that are fewer than the teacher's own, which are no control."""
    students = [told("early", 0.85, seed=seed, training=seed) for seed in range(3)]
    control = [told("teacher", rate, seed=seed, training=0, nfe=(1, 4), kind="teacher") for seed in range(3)]
    sentences = verdict(list(rows_of(tmp_path / "runs", *teacher(), *students, *control).values()))
    (beyond,) = [sentence for sentence in sentences if sentence.startswith("The control")]
    assert beyond.startswith("The control, the teacher without any distillation at 1v/4a, reaches")
    assert beyond.endswith(words)


def test_random_actions_alone_have_a_verdict_too(tmp_path):
    """They are a demo's first result."""
    rows = rows_of(tmp_path / "runs", {**told("random", 0.0, seed=0, training=0), "nfe": {}, "kind": "baseline"})
    (sentence,) = verdict(list(rows.values()))
    assert "what a task is worth without a model" in sentence


def test_one_network_at_as_many_steps_has_one_latency(rows):
    assert rows["early 1v/1a"].latency == rows["late 1v/1a"].latency
    assert rows["early 1v/1a"].latency["chunk_ms"] == (latency(1, 1)["chunk_ms"] + latency(1, 2)["chunk_ms"]) / 2


def test_students_are_paired_by_training_and_the_teacher_with_each(rows):
    early, late, goal = (rows[label] for label in ("early 1v/1a", "late 1v/1a", "teacher 10v/10a"))
    assert early.pairs(late).episodes == early.pairs(goal).episodes == 750
    found = compare_rows(early, late, multimodal=True)
    assert (found.paired, found.trainings, len(found.by_training)) == (True, 3, 3)
    assert found.low == paired_share_difference(early.pairs(late, multimodal=True)).low > 0


def test_a_student_of_one_training_says_that_its_scatter_is_not_held(tmp_path):
    rows = rows_of(tmp_path / "runs", *teacher(), told("early", 0.8, seed=0, training=0))
    assert "the spread of trainings is not in the intervals" in verdict(list(rows.values()))[1]


def test_trainings_in_the_same_scenes_are_one_row(tmp_path):
    students = [told("early", 0.8, seed=seed, training=k, luck=1) for k in range(2) for seed in range(3)]
    rows = rows_of(tmp_path / "runs", *teacher(), *students)
    assert (rows["early 1v/1a"].trainings, rows["early 1v/1a"].share().episodes) == (2, 1500)
    assert rows["early 1v/1a"].kept["two-way"].episodes == 600


def test_older_evaluations_that_tell_less_are_paired_all_the_same(tmp_path):
    """A run's folder is a training, and the seed tells the scenes."""
    students = [told("early", 0.8, seed=seed, training=seed, older=True) for seed in range(3)]
    rows = rows_of(tmp_path / "runs", *teacher(), *students)
    assert rows["early 1v/1a"].kept["two-way"].trainings == 3
    assert rows["early 1v/1a"].pairs(rows["teacher 10v/10a"]).episodes == 750


def test_evaluations_without_outcomes_are_shown_without_an_interval(tmp_path):
    rows = rows_of(tmp_path / "runs", *teacher(), evaluation("early", rates=0.8))
    found = rows["early 1v/1a"].kept["two-way"]
    assert (found.paired, found.low, found.ratio_text) == (False, None, f"{found.value:.2f}")
    assert any("do not tell the outcome of each episode" in note for note in table_notes(list(rows.values())))
    assert "not paired" in verdict(list(rows.values()))[1]


def test_a_teacher_from_less_noise_is_a_control_and_not_what_students_are_held_against(tmp_path):
    cool = [
        told("teacher", 0.99, nfe=(10, 10), seed=0, training=0, kind="teacher", sampler="t0.5"),
        told("early", 0.9, seed=0, training=0),
    ]
    student = told("early", 0.8, seed=0, training=0, sampler="t0.5")
    rows = rows_of(tmp_path / "runs", *teacher(), *cool, student)
    assert full_teacher(list(rows.values())).label == "teacher 10v/10a"
    assert rows["teacher 10v/10a t0.5"].kept["two-way"].value > 1
    assert {"early 1v/1a", "early 1v/1a t0.5"} <= set(rows)
    text = " ".join(verdict(list(rows.values())))
    assert "at 10v/10a t0.5, reaches 100%" in text
    assert "Sampling from 0.5 times the noise, in percentage points" in text
    assert any('"t0.5": every chunk begins with' in note for note in table_notes(list(rows.values())))
    unit = [row for row in rows.values() if row.sampler == "own"]
    assert not any("t0.5" in note for note in table_notes(unit))


def test_a_student_at_unit_amplitude_is_a_row_beside_euler(tmp_path):
    others = [told("early", rate, seed=0, training=0, sampler=name) for name, rate in (("euler", 0.7), ("unit", 0.9))]
    rows = rows_of(tmp_path / "runs", *teacher(), told("early", 0.8, seed=0, training=0), *others)
    assert {"early 1v/1a", "early 1v/1a Euler", "early 1v/1a unit amplitude"} <= set(rows)
    sentences = verdict(list(rows.values()))
    assert any(
        "brought to unit amplitude, in percentage points" in s and "early 1v/1a, two-way +" in s for s in sentences
    )
