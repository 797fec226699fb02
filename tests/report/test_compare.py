# SPDX-License-Identifier: Apache-2.0
import json
from itertools import pairwise

import numpy as np
import pytest
from synthetic import CROSS, benchmark, evaluation, open_loop, strip, write

from flashwam.core.stats import difference_interval, wilson
from flashwam.report import compare_figures
from flashwam.report.compare import compare, gather
from flashwam.report.compare_figures import draw_cross
from flashwam.report.comparison import signed_points
from flashwam.report.cross_losses import cross_losses
from flashwam.report.figures import plain_ticks
from flashwam.report.motion import motion_link
from flashwam.report.motion_page import motion_section
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.row import milliseconds_text
from flashwam.report.verdict import verdict


def rows_of(tmp_path, *results):
    for i, result in enumerate(results):
        write(tmp_path / result["run"], result | {"label": f"{result['label']} {i}"})
    runs = list(dict.fromkeys(tmp_path / result["run"] for result in results))
    return gather(runs, tmp_path / "out")[0]


def test_the_page_of_a_whole_benchmark_is_self_contained_and_holds_the_numbers(tmp_path):
    runs = benchmark(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "cross.json").write_text(json.dumps(CROSS))
    result = compare(runs, out=out)
    page = (out / "compare.html").read_text()
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 5 + 5
    for text in ("on_policy 1v/1a", "naive_lcm 1v/1a Euler", "0.92 [0.85, 0.96]", "192 draws a cell", "reach-wall *"):
        assert text in page, text
    assert json.loads((out / "compare.json").read_text()) == result
    names = {p.name for p in out.iterdir()}
    assert {"success.png", "latency.png", "budget.png", "training.png", "cross.png"} <= names
    assert result["table"].splitlines()[2].startswith("teacher 10v/20a")
    line = "| on_policy 1v/1a | 2 | 1 | 250 | 0.92 [0.85, 0.96] | 0.96 | 0.92 [0.87, 0.95] | 0.96 | 0.91 | 16 | 10.0x |"
    assert line in (out / "compare.md").read_text()
    assert "do not tell the outcome of each episode" in (out / "compare.md").read_text()


def test_streams_drawn_by_one_pass_count_once(tmp_path):
    apart, together = rows_of(
        tmp_path,
        evaluation("teacher_apart", nfe=(10, 20)),
        evaluation("teacher_joint", nfe=(10, 20), stages=[["video", "action"]]),
    )
    assert {apart.run: apart.total_nfe, together.run: together.total_nfe} == {"teacher_apart": 30, "teacher_joint": 20}


def with_motion(result, alike):
    """`result` with the similarity of every episode, a function of its success."""
    rng = np.random.default_rng(3)
    for task in result["tasks"].values():
        outcomes = [1] * task["success"] + [0] * (task["episodes"] - task["success"])
        noise = rng.uniform(-0.1, 0.1, len(outcomes))
        task |= {"outcomes": outcomes, "motion": [alike(o) + float(n) for o, n in zip(outcomes, noise, strict=True)]}
        task["first_motion"] = [0.5 + 0.3 * (i % 7 == 0) for i in range(len(outcomes))]
    # An episode that ended within its first chunk.
    next(iter(result["tasks"].values()))["motion"][0] = None
    return result


def test_imagination_is_related_to_success_and_shown(tmp_path):
    told = with_motion(evaluation("teacher", nfe=(10, 10), rates=0.8), lambda success: 0.4 + 0.3 * success)
    untold = with_motion(evaluation("flash_wam", rates=0.5), lambda success: 0.3)
    runs = [write(tmp_path / result["run"], result | {"film": "film.png"}) for result in (told, untold)]
    for run in runs:
        strip(run / "film.png")
    result = compare(runs, out=tmp_path / "out")
    rows, *_ = gather(runs, tmp_path / "out")
    links = {row.run: motion_link(row) for row in rows}
    assert links["teacher"].episodes == 5 * 50 - 1
    assert links["teacher"].succeeded - links["teacher"].failed == pytest.approx(0.3, abs=0.03)
    assert links["teacher"].correlation[1] > 0.8
    _, low, high = links["teacher"].foretold
    assert low < 0 < high
    r, low, high = links["flash_wam"].correlation
    assert low < 0 < high
    (sentence,) = [text for text in result["verdict"] if "foresees motion" in text]
    assert "teacher 10v/10a foresees motion" in sentence
    assert "goes with success" in sentence.split(";")[0]
    assert "tells nothing of success" in sentence.split(";")[1]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert (tmp_path / "out" / "motion.png").is_file()
    assert f"{r:+.2f} ({low:+.2f} to {high:+.2f})" in page
    assert "What they imagined, and what happened" in page


def test_without_motion_there_is_no_such_section(tmp_path):
    rows = rows_of(tmp_path, evaluation("teacher", nfe=(10, 10)), evaluation("flash_wam"))
    assert motion_section(rows, tmp_path) is None
    assert [motion_link(row) for row in rows] == [None, None]


def test_a_run_without_evaluations_is_refused_with_the_command_that_helps(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty is no run folder"):
        compare([tmp_path / "empty"], out=tmp_path / "out")
    (tmp_path / "naive").mkdir()
    (tmp_path / "naive" / "recipe.yaml").touch()
    with pytest.raises(FileNotFoundError, match="naive has no evaluations; make one first: flashwam evaluate"):
        compare([tmp_path / "naive"], out=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no run folder"):
        compare([tmp_path / "nowhere"], out=tmp_path / "out")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([], out=tmp_path / "out")


def test_foreign_and_broken_files_are_named(tmp_path):
    folder = tmp_path / "run" / "evaluations"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        read_evaluations(tmp_path / "run")
    (folder / "a.json").write_text('{"run": "x"}')
    with pytest.raises(ValueError, match=r"a\.json is not an evaluation: it lacks \['nfe', 'tasks'\]"):
        read_evaluations(tmp_path / "run")


def test_seeds_are_pooled_episode_by_episode(tmp_path):
    (row,) = rows_of(
        tmp_path,
        evaluation("flash", rates=0.8, commitment=0.6, episodes=50, seed=0, open_loop=open_loop(0.02)),
        evaluation("flash", rates=0.5, commitment=0.9, episodes=10, seed=1, open_loop=open_loop(0.04)),
    )
    assert (len(row.seed_rates()), row.share().episodes, row.share().successes) == (2, 300, 5 * 40 + 5 * 5)
    assert row.seed_rates() == pytest.approx((0.8, 0.5))
    assert row.share().interval == pytest.approx(wilson(225, 300))
    assert row.share().commitment == pytest.approx((0.6 * 50 + 0.9 * 10) / 60)
    assert row.share(multimodal=True).episodes == 2 * 60
    assert row.open_loop["action_error_teacher"] == pytest.approx(0.03)


def test_results_kept_without_their_pictures_are_compared_all_the_same(tmp_path, caplog):
    runs = benchmark(tmp_path)
    rows, _, _ = gather(runs, tmp_path / "out")
    assert sum(len(row.strips) for row in rows) == 5
    assert not caplog.records
    for picture in tmp_path.glob("*/strip.png"):
        picture.unlink()
    without, _, _ = gather(runs, tmp_path / "out")
    assert not any(row.strips for row in without)
    assert [row.to_json() for row in without] == [row.to_json() for row in rows]
    assert "5 evaluations name pictures that are not there" in caplog.text


def test_models_are_compared_over_the_seeds_that_both_have(tmp_path):
    """A student that was driven at the hard seed alone is not held against the teacher's easy one."""
    rows = rows_of(
        tmp_path,
        evaluation("teacher", nfe=(10, 10), rates=0.8, seed=0),
        evaluation("teacher", nfe=(10, 10), rates=1.0, seed=1),
        evaluation("flash", rates=0.8, seed=0),
    )
    teacher, student = (next(row for row in rows if row.run == run) for run in ("teacher", "flash"))
    assert teacher.share().rate == pytest.approx(0.9)
    assert teacher.beside(student).share().rate == pytest.approx(0.8)
    assert student.beside(teacher).share() == student.share()
    assert verdict(rows)[0].count("80%, so it keeps 1.00 of its teacher's success") == 2


def test_equal_names_and_seeds_are_told_apart_by_their_folders(tmp_path):
    runs = [
        write(tmp_path / side / "flash", evaluation("flash", rates=rate)) for side, rate in (("a", 0.2), ("b", 0.9))
    ]
    rows = pool_evaluations([result for run in runs for result in read_evaluations(run)])
    assert sorted(row.run for row in rows) == ["a/flash", "b/flash"]


def test_the_verdict_calls_a_difference_only_where_the_interval_leaves_out_zero(tmp_path):
    teacher = evaluation("teacher", nfe=(10, 20), rates=0.96)
    near = verdict(rows_of(tmp_path / "near", teacher, evaluation("flash", rates=0.94)))
    assert "on the two-way tasks in 94%, teacher 10v/20a in 96%, so it keeps 0.98 of its teacher's success" in near[0]
    low, high = difference_interval((94, 100), (96, 100))
    assert f"-2 percentage points, unpaired 95 % interval {100 * low:+.0f} to {100 * high:+.0f}" in near[0]
    assert "not paired: these evaluations do not tell the outcome" in near[1]
    far = verdict(rows_of(tmp_path / "far", teacher, evaluation("flash", rates=0.7)))
    low, high = difference_interval((105, 150), (144, 150))
    assert f"-26 percentage points, unpaired 95 % interval {100 * low:+.0f} to {100 * high:+.0f}" in far[0]


def test_the_verdict_ranks_students_at_the_fewest_steps_with_their_own_function(tmp_path):
    rows = rows_of(
        tmp_path,
        evaluation("teacher", nfe=(10, 20), rates=0.96),
        evaluation("naive", rates=0.5),
        evaluation("flash", rates=0.8),
        evaluation("flash", rates=0.9, nfe=(1, 2)),
        evaluation("naive", rates=0.1, sampler="euler"),
    )
    sentences = verdict(rows)
    assert sentences[0].startswith("**flash 1v/1a** succeeds on the two-way tasks in 80%")
    assert any(
        s.startswith("At 1v/1a, on the one-way tasks, flash is in these trainings ahead of naive +30 (")
        for s in sentences
    )
    assert any("plain Euler" in s and "naive 1v/1a, two-way -40 (" in s for s in sentences)


@pytest.mark.parametrize(("trainings", "words"), [(1, "in these trainings"), (3, "surely")])
def test_the_verdict_is_sure_of_an_order_only_over_several_paired_trainings(trainings, words, tmp_path):
    def driven(run, rates, **rest):
        result = evaluation(run, rates=rates, **rest)
        for task in result["tasks"].values():
            task["outcomes"] = [1] * task["success"] + [0] * (task["episodes"] - task["success"])
        return result

    seeds = range(trainings)
    rows = rows_of(
        tmp_path,
        *(driven("teacher", 0.96, nfe=(10, 10), seed=seed) for seed in seeds),
        *(driven("teacher", 0.3, seed=seed) for seed in seeds),
        *(
            driven(run, r, seed=seed, training_seed=seed)
            for run, r in (("flash", 0.8), ("naive", 0.4))
            for seed in seeds
        ),
    )
    told = verdict(rows)
    assert f"{words} less than all of it" in told[0]
    assert any(f"flash is {words} ahead of naive +40 (" in text for text in told)
    (control,) = (text for text in told if "without any distillation" in text)
    assert control.endswith("distillation gains." if words == "surely" else "distillation gains in these trainings.")


def test_small_differences_keep_their_sign():
    assert [signed_points(share) for share in (0.2, -0.0123, -0.0003, 0.0)] == ["+20", "-1.2", "-0.03", "0"]


def test_an_untrained_control_as_good_as_the_student_is_said_so(tmp_path):
    rows = rows_of(
        tmp_path,
        evaluation("teacher", nfe=(10, 20), rates=0.92),
        evaluation("teacher", nfe=(1, 1), rates=0.9),
        evaluation("flash", rates=0.92),
    )
    assert any("success alone cannot tell distillation from none" in s for s in verdict(rows))


def test_a_collapsed_stream_is_named(tmp_path):
    rows = rows_of(
        tmp_path,
        evaluation("teacher", nfe=(10, 20), rates=0.96),
        evaluation("naive", rates=0.4, open_loop=open_loop(0.1, variance=0.2)),
    )
    assert any("the action stream has collapsed, its draws vary 0.20 times the teacher's" in s for s in verdict(rows))


def test_the_cross_table_says_which_stream_loses():
    losses = {loss["student"]: loss for loss in cross_losses(CROSS)}
    assert losses["linear_both 1v"]["column"] == "linear_both 1a"
    assert losses["linear_both 1v"]["action"] == pytest.approx(0.93 - 0.78)
    assert losses["linear_both 1v"]["video"] == pytest.approx(0.95 - 0.93)
    assert "teacher 1v" not in losses
    squared = {
        name: [label.replace("teacher", "teacher\u00b2") for label in CROSS[name]] for name in ("rows", "columns")
    }
    assert {loss["student"]: loss for loss in cross_losses({**CROSS, **squared})} == losses
    numbered = {name: [label.replace("teacher", "teacher_5000") for label in CROSS[name]] for name in squared}
    assert {loss["student"]: loss for loss in cross_losses({**CROSS, **numbered})} == losses


def test_a_student_that_loses_nothing_is_not_said_to_lose_more_of_one_stream(tmp_path):
    rows = rows_of(tmp_path, evaluation("teacher", nfe=(10, 20), rates=0.96), evaluation("on_policy", rates=0.96))
    as_good = {**CROSS, "commitment": [[0.96, 0.79, 0.8, 0.951], *CROSS["commitment"][1:]]}
    ours, others = (
        next(s for s in verdict(rows, cross=as_good) if s.startswith(f"{n} 1v")) for n in ("on_policy", "linear_both")
    )
    assert "neither its actions nor its video lose commitment" in ours
    assert "its actions lose -1 " in ours
    assert "its actions lose more commitment" in others


def test_only_the_last_step_of_a_run_stands_in_the_table(tmp_path):
    results = [evaluation("flash", rates=r, step=s) for s, r in ((0, 0.1), (100, 0.5), (250, 0.9))]
    rows = rows_of(tmp_path, *results)
    assert [(row.label, row.final) for row in rows] == [
        ("flash 1v/1a", True),
        ("flash 1v/1a at 100", False),
        ("flash 1v/1a at 0", False),
    ]


def test_open_loop_rows_without_episodes_are_compared_too(tmp_path):
    result = evaluation("flash", step=10, open_loop=open_loop(0.02)) | {"tasks": {}, "overall": None}
    run = write(tmp_path / "flash", result)
    page = compare([run], out=tmp_path / "out")["page"]
    text = (tmp_path / "out" / "compare.html").read_text()
    assert page.endswith("compare.html")
    assert "action error to teacher" in text
    assert "What came out" not in text


def test_parameters_of_the_deployed_model_are_shown_where_they_are_known(tmp_path):
    runs = benchmark(tmp_path)
    for path in (runs[-1] / "evaluations").glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "parameters": {"backbone": 1_200_000, "expert": 34_000}}))
    result = compare(runs, out=tmp_path / "out")
    head, *_ = result["table"].splitlines()
    assert head.endswith("parameters")
    assert sum(line.endswith("1.23 M") for line in result["table"].splitlines()) > 0
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "1.23 M" in page
    assert "34,000" in page
    assert {"backbone": 1_200_000, "expert": 34_000} in [row["parameters"] for row in result["rows"]]


def test_what_was_timed_apart_is_left_out_beside_what_was_timed_in_turns(tmp_path):
    runs = [
        write(tmp_path / "teacher", evaluation("teacher", nfe=(10, 10), latency={"chunk_ms": 170.0})),
        write(tmp_path / "flash", evaluation("flash", latency={"chunk_ms": 900.0})),
    ]
    out = tmp_path / "out"
    out.mkdir()
    assert [row.latency["chunk_ms"] for row in gather(runs, out)[0]] == [170.0, 900.0]
    (out / "latency.json").write_text(json.dumps({"teacher 10v/10a": {"chunk_ms": 120.0}}))
    assert [dict(row.latency) for row in gather(runs, out)[0]] == [{"chunk_ms": 120.0}, {}]
    assert [milliseconds_text(ms) for ms in (9.876, 99.96, 1720.4)] == ["9.88", "100", "1,720"]


def test_labels_of_the_cross_table_do_not_run_into_each_other(tmp_path, monkeypatch):
    """Drawn as large as the page shows it; the boxes of neighbours' labels have nothing in common."""
    boxes = []

    def measured(figure, path):
        (axes,) = figure.axes
        figure.canvas.draw()
        boxes.extend(label.get_window_extent() for label in axes.get_xticklabels())
        return path

    monkeypatch.setattr(compare_figures, "save_figure", measured)
    names = ["pairs 1v/1a", "on_policy_equal_cost 1v/1a", "naive_lcm_guided_400 1v/1a", "teacher full"]
    square = [[0.5] * len(names)] * len(names)
    draw_cross({"rows": names, "columns": names, "commitment": square, "action_error": square}, tmp_path / "cross.png")
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert len(boxes) == len(names)


def test_a_logarithmic_axis_has_three_ticks_or_more():
    for low, high in ((0.012, 0.0205), (1, 1.9), (0.3, 40), (0.018, 0.031), (5e-3, 2e5)):
        ticks, labels = plain_ticks(low, high)
        assert len(ticks) == len(labels) > 2
        assert low <= min(ticks) < max(ticks) <= high
    assert plain_ticks(0.9, 60)[1] == ["1", "2", "5", "10", "20", "50"]


def test_of_many_models_only_the_best_are_named_beside_their_dots(tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr(
        compare_figures, "label_points", lambda axes, points: named.append([told[2] for told in points if told[2]])
    )
    results = [evaluation("teacher", nfe=(10, 10), latency={"chunk_ms": 90.0})]
    results += [evaluation(f"m{k:02}", rates=0.02 * (k + 1), latency={"chunk_ms": 10.0}) for k in range(15)]
    rows = rows_of(tmp_path, *results)
    compare_figures.draw_latency(rows, tmp_path / "many.png")
    assert named == [["teacher 10v/10a", "m14 1v/1a", "m13 1v/1a"]] * 2
    compare_figures.draw_latency(rows[:5], tmp_path / "few.png")
    assert len(named[-1]) == 5
    assert [compare_figures.names_some(some) for some in (rows, rows[:5])] == [True, False]


def test_of_a_models_folder_its_run_is_compared(tmp_path):
    run = write(tmp_path / "flash", evaluation("flash"))
    for name in ("student", "best"):
        (run / name).mkdir()
        (run / name / "flashwam.json").write_text("{}")
    told = [compare([run / name], out=tmp_path / name)["rows"] for name in ("", "student", "best")]
    assert told[0] == told[1] == told[2]
    assert len(compare([run, run / "student"], out=tmp_path / "both")["rows"]) == 1


def test_dollars_in_a_name_are_no_formula(tmp_path):
    name = r"$\frac{a$ b"
    runs = [write(tmp_path / f"run{k}", evaluation(run, rates=0.5)) for k, run in enumerate((name, "flash"))]
    compare(runs, out=tmp_path / "out")
    assert (tmp_path / "out/success.png").is_file()
