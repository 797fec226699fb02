# SPDX-License-Identifier: Apache-2.0
"""Figures of many lines stay legible on paper: in parts, with names that are not cut off and colours that are kept."""

from itertools import combinations, pairwise

import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from synthetic import contrast, curves, evaluation, latency, write

from flashwam.report import compare_figures, forest_figure, motion_page
from flashwam.report.colours import run_colours
from flashwam.report.compare import compare, gather
from flashwam.report.parts import MOST, in_parts, part_path, part_text

PAPER_INCHES, LEAST_POINTS = (6.9, 8.66), 6.5
"""Width and height of a figure on paper, and the least size of letters there."""


def rows_of(tmp_path, *results):
    return gather([write(tmp_path / f"{k}_{one['run']}", one) for k, one in enumerate(results)], tmp_path / "out")[0]


def many(students):
    """A teacher in full and few steps, chance, students in one and two action steps, and others that use Euler."""
    told = [evaluation("teacher", nfe=nfe, latency=latency(*nfe)) for nfe in ((10, 10), (1, 2), (1, 1))]
    told.append(evaluation("random", kind="baseline", nfe=(0, 0)))
    for k in range(students):
        for nfe in ((1, 1), (1, 2)):
            told.append(evaluation(f"m{k:02}", nfe=nfe, rates=0.02 * k, latency=latency(*nfe)))
        told.append(evaluation(f"m{k:02}", sampler="euler"))
    return told


def test_few_lines_are_one_figure_in_their_order(tmp_path):
    rows = rows_of(tmp_path, *many(9))
    assert in_parts(rows, lambda row: row) == [rows]
    assert len(rows) <= MOST
    assert part_text(rows, 0, 1) == ""


def test_the_first_part_holds_the_teacher_and_the_students_in_the_fewest_steps(tmp_path):
    rows = rows_of(tmp_path, *many(24))
    parts = in_parts(rows, lambda row: row)
    assert [row for part in parts for row in part] == [row for row in rows if row.sampler == "own"] + [
        row for row in rows if row.sampler != "own"
    ]
    assert [(len(part), {row.kind for row in part}) for part in parts] == [
        (28, {"teacher", "baseline", "student"}),
        (24, {"student"}),
        (24, {"student"}),
    ]
    assert part_text(parts[0], 0, 3).startswith(
        "Part 1 of 3: undistilled models in 2 to 20 passes a chunk; baselines; "
    )
    assert part_text(parts[1], 1, 3) == "Part 2 of 3: students in 3 passes a chunk. "
    assert "not with their own function or noise" in part_text(parts[2], 2, 3)


def test_a_group_of_too_many_lines_is_cut_evenly(tmp_path):
    rows = rows_of(tmp_path, *(evaluation(f"m{k:02}") for k in range(70)))
    assert [len(part) for part in in_parts(rows, lambda row: row)] == [24, 24, 22]


def test_a_page_of_many_lines_shows_them_in_parts_that_paper_shows_at_a_size_to_read(tmp_path):
    runs = [write(tmp_path / f"{k}_{one['run']}", one) for k, one in enumerate(many(13))]
    compare(runs, out=tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("success*.png"))
    assert names == ["success.png", "success_2.png"]
    assert part_path(tmp_path / "success.png", 0).name == names[0]
    for name in names:
        with Image.open(tmp_path / "out" / name) as image:
            scale = min(paper / (pixels / 160) for paper, pixels in zip(PAPER_INCHES, image.size, strict=True))
        assert 9 * scale > LEAST_POINTS, name
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("Part 2 of 2: ") == 1


def test_a_page_of_fewer_lines_leaves_no_part_of_an_earlier_one_beside_it(tmp_path):
    runs = [write(tmp_path / f"{k}_{one['run']}", one) for k, one in enumerate(many(13))]
    compare(runs, out=tmp_path / "out")
    mine = tmp_path / "out" / "success_final.png"
    mine.write_bytes(b"mine")
    compare(runs[:5], out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("success*.png")) == ["success.png", mine.name]


def test_a_name_with_a_bar_is_one_cell_of_the_table(tmp_path):
    compare([write(tmp_path / "a", evaluation("a|b"))], out=tmp_path / "out")
    head, rule, line, *_ = (tmp_path / "out" / "compare.md").read_text().splitlines()
    assert line.startswith("| a\\|b 1v/1a | ")
    assert line.replace("\\|", "").count("|") == head.count("|") == rule.count("|")


def test_parts_have_the_axes_of_the_whole(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        forest_figure, "save_figure", lambda figure, path: seen.append([axes.get_title("left") for axes in figure.axes])
    )
    rows = rows_of(tmp_path, *many(2))
    forest_figure.draw_forest(rows, tmp_path / "a.png")
    forest_figure.draw_forest([row for row in rows if row.kind == "baseline"], tmp_path / "b.png", among=rows)
    assert seen[0] == seen[1] == ["two-way:\nsuccess", "one-way:\nsuccess", "two-way:\ncommitment"]


@pytest.fixture
def drawn(monkeypatch):
    """Figures, drawn as they are saved, and not saved."""
    figures = []

    def keep(figure, path):
        figure.set_dpi(160)
        figure.draw_without_rendering()
        figures.append(figure)
        return path

    for module in (compare_figures, forest_figure, motion_page):
        monkeypatch.setattr(module, "save_figure", keep)
    return figures


LONG = "swift_mask_auxiliary_reconstruct_with_a_long_end"


def test_teachers_are_never_alone_in_the_first_part(tmp_path):
    """Of students that are too many for it the first, which are the best, stand beside them."""
    rows = rows_of(tmp_path, *many(30))
    parts = in_parts(rows, lambda row: row)
    own = [row for row in rows if row.sampler == "own"]
    assert parts[0] == own[:MOST]
    assert [row for part in parts for row in part][: len(own)] == own
    assert all(len(part) <= MOST for part in parts)


@pytest.mark.parametrize("name", ["m", LONG])
def test_no_legend_is_cut_off(name, drawn, tmp_path):
    runs = [f"{name}_{k:02}" for k in range(40)]
    metrics = {run: [curves(1)] for run in runs}
    compare_figures.draw_training(metrics, ["video", "action"], tmp_path / "t.png", colours=run_colours((), runs))
    told = [evaluation(run, latency=latency(1, 1), rates=0.02 * k) for k, run in enumerate(runs)]
    compare_figures.draw_latency(rows_of(tmp_path, *told), tmp_path / "l.png")
    for figure in drawn:
        (legend,) = figure.legends
        box, page = legend.get_window_extent(), figure.bbox
        assert (box.x0 >= 0, box.x1 <= page.width, box.y0 >= 0) == (True, True, True)
        assert all(axes.get_window_extent().y0 > box.y1 for axes in figure.axes)


def test_a_stream_that_nothing_was_logged_of_has_no_panel(drawn, tmp_path):
    logged = [{key: value for key, value in line.items() if "video" not in key} for line in curves(1)]
    compare_figures.draw_training({"a": [logged]}, ["video", "action"], tmp_path / "t.png", colours={})
    assert [axes.get_title("left") for axes in drawn[0].axes] == ["action loss", "action gradient norm"]


def test_an_interval_that_leaves_its_panel_says_so(drawn, tmp_path):
    """A point at 1.9 lies inside of its panel; at 9 an arrow stands at the end, and the number beside it."""
    told = [evaluation(run, nfe=nfe, rates=rate) for run, nfe, rate in (("teacher", (10, 10), 0.1), ("m", (1, 1), 0.9))]
    for one in told:
        for task in one["tasks"].values():
            task["outcomes"] = [int(k < task["success"]) for k in range(task["episodes"])]
    forest_figure.draw_forest(rows_of(tmp_path, *told), tmp_path / "f.png")
    two_way = drawn[0].axes[0]
    (arrow,) = [line for line in two_way.lines if line.get_marker() == ">"]
    low, high = two_way.get_xlim()
    assert low < arrow.get_xdata()[0] <= high
    assert "9.00" in {text.get_text() for text in two_way.texts}


def test_long_names_of_lines_leave_room_for_the_panels(drawn, tmp_path):
    rows = rows_of(tmp_path, *(evaluation(f"{LONG}_{k}") for k in range(4)))
    forest_figure.draw_forest(rows, tmp_path / "f.png")
    (figure,) = drawn
    labels = figure.axes[0].get_yticklabels()
    assert labels[0].get_text() == "swift_mask_auxiliary_reconstruct_\nwith_a_long_end_3 1v/1a"
    boxes = [label.get_window_extent() for label in labels]
    assert all(above.y0 > below.y1 for below, above in pairwise(boxes))
    assert sum(axes.get_window_extent().width for axes in figure.axes) > figure.bbox.width / 3


@pytest.mark.parametrize("name", ["x" * 150, "_".join(["word"] * 40), "x" * 60 + "_y"])
def test_names_that_never_end_leave_room_too(drawn, tmp_path, name):
    rows = rows_of(tmp_path, evaluation(name), evaluation("pairs"))
    forest_figure.draw_forest(rows, tmp_path / "f.png")
    (figure,) = drawn
    for label in figure.axes[0].get_yticklabels():
        assert label.get_window_extent().x0 >= 0
        assert label.get_text().count("\n") <= 1
    assert sum(axes.get_window_extent().width for axes in figure.axes) > figure.bbox.width / 4


def test_every_letter_of_a_figure_can_be_read(drawn, tmp_path):
    told = [evaluation("teacher", nfe=(10, 10), latency=latency(10, 10), rates=0.9)]
    told += [evaluation(f"m{k:02}", latency=latency(1, 1), rates=0.5 + 0.01 * k) for k in range(40)]
    rows = rows_of(tmp_path, *told)
    forest_figure.draw_forest(rows, tmp_path / "f.png")
    compare_figures.draw_latency(rows, tmp_path / "l.png")
    letters = {to_rgb(text.get_color()) for figure in drawn for text in figure.findobj(Text) if text.get_text()}
    assert len(letters) > 20
    assert min(contrast(colour, (1.0, 1.0, 1.0)) for colour in letters) >= 4.5


def test_names_beside_dots_neither_overlap_nor_leave_the_axes(drawn, tmp_path):
    told = [evaluation("teacher", nfe=(10, n), latency=latency(10, n), rates=0.9) for n in (1, 4, 10)]
    told += [evaluation(f"m{k:02}", latency=latency(1, 1), rates=0.5 + 0.01 * k) for k in range(12)]
    told += [
        evaluation(f"trained_{k}", kind="teacher", nfe=(1, 4), latency=latency(1, 4), rates=0.9) for k in range(12)
    ]
    compare_figures.draw_latency(rows_of(tmp_path, *told), tmp_path / "l.png")
    for axes in drawn[0].axes:
        texts = [Text.get_window_extent(text) for text in axes.texts]  # without their lines
        # The teacher's, and the best two in two steps and in five.
        assert len(texts) == 3 + 2 + 2
        assert not any(one.overlaps(other) for one, other in combinations(texts, 2))
        box = axes.get_window_extent().padded(4)
        assert all(box.x0 <= text.x0 and text.x1 <= box.x1 and box.y0 <= text.y0 for text in texts)


def test_a_picture_keeps_the_colours_of_all_its_lines(tmp_path):
    told = [evaluation(f"m{k:02}", latency=latency(1, 1), rates=0.02 * k) for k in range(44)]
    rows = rows_of(tmp_path, *told)
    path = compare_figures.draw_latency(rows, tmp_path / "l.png")
    with Image.open(path) as image:
        shown = {colour for _, colour in image.convert("RGB").getcolors()}
    wanted = {tuple(round(255 * part) for part in to_rgb(colour)) for colour in run_colours(rows).values()}
    assert wanted <= shown
    assert (255, 255, 255) in shown
