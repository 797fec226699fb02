# SPDX-License-Identifier: Apache-2.0
import json
from html.parser import HTMLParser

import pytest
from matplotlib.colors import to_rgb
from synthetic import CROSS, benchmark, evaluation, latency, strip, write

from flashwam.recipe.load import load_recipe
from flashwam.report.alt_texts import real_time_alt, training_alt
from flashwam.report.analyze import recipe_analysis
from flashwam.report.colours import run_colours
from flashwam.report.compare import compare, gather
from flashwam.report.compare_page import compare_sections
from flashwam.report.real_time import Curve, Point
from flashwam.report.row import Share
from flashwam.report.schedule_alts import gradient_scale_alt, start_alt
from flashwam.run.real_time import RealTime


class Pictures(HTMLParser):
    def __init__(self):
        super().__init__()
        self.alts = []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.alts.append(dict(attrs)["alt"])


def test_curves_of_two_clocks_are_told_apart():
    def curve(control_hz, won):
        point = Point(
            latency_ms=40.0, measured=False, success={"standing": Share(successes=won, episodes=10)}, seconds={}
        )
        clock = RealTime(latency_ms=40.0, control_hz=control_hz)
        return Curve(label="pairs 1v/1a", run="pairs", kind="student", clock=clock, points=(point,))

    told = real_time_alt([curve(80.0, 9), curve(20.0, 1)])
    assert "pairs 1v/1a (hold, 80 controls a second) from 0.90 to 0.90" in told
    assert "pairs 1v/1a (hold, 20 controls a second) from 0.10 to 0.10" in told
    assert real_time_alt([curve(80.0, 9)]).endswith("pairs 1v/1a (hold) from 0.90 to 0.90")


def test_every_picture_of_a_page_is_told_by_its_numbers(tmp_path):
    runs = benchmark(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "cross.json").write_text(json.dumps(CROSS))
    compare(runs, out=out)
    page = Pictures()
    page.feed((out / "compare.html").read_text())
    assert len(page.alts) == 10
    assert all(len(alt) > 40 for alt in page.alts)
    forest, latency, budget, training, cross, *strips = page.alts
    assert "on the two-way tasks highest on_policy 1v/2a with 0.98" in forest
    assert "of milliseconds highest teacher 10v/20a" in latency
    assert budget.startswith(
        "Curves over distillation steps, at 1v/1a, of success on the two-way tasks: on_policy from 0.72 to "
    )
    assert "; a dashed line, teacher 10v/20a at 0.96; of the error to the teacher's actions: on_policy from " in budget
    assert "video loss, " in training
    assert "action gradient norm, " in training
    assert "highest the video of teacher 10v with the actions of teacher 20a with 0.95" in cross
    assert all("what the camera saw" in alt for alt in strips)


def caption_of(sections, picture):
    return next(figure for section in sections for figure in section.figures if figure.path.name == picture)


SEVERAL = {"drawer-open": 0.2, "window-open": 0.2, "button-press-topdown": 0.2, "reach-wall": 0.8, "two-ways": 0.8}


def test_texts_are_of_the_tasks_that_are_drawn(tmp_path):
    runs = [
        write(tmp_path / "t", evaluation("teacher", nfe=(10, 10), latency=latency(10, 10))),
        write(
            tmp_path / "a",
            evaluation("a", step=0, rates=0.1),
            evaluation("a", step=9, rates=SEVERAL, latency=latency(1, 1)),
            evaluation("a", step=0, nfe=(1, 2), rates=0.1),
            evaluation("a", step=9, nfe=(1, 2), rates=0.9),
        ),
    ]
    sections = compare_sections(gather(runs, tmp_path / "out")[0], tmp_path / "out")
    budget = caption_of(sections, "budget.png").alt
    assert "at 1v/1a, of success on the two-way tasks: a from 0.10 to 0.80; a dashed line, teacher 10v/10a" in budget
    dots = caption_of(sections, "latency.png").alt
    assert "on the two-way tasks highest a 1v/1a with 0.80" in dots
    assert "on the one-way tasks highest teacher 10v/10a with 0.50, lowest a 1v/1a with 0.20" in dots
    forest = caption_of(sections, "success.png")
    assert "commitment on the two-way tasks: all at 0.70" in forest.alt
    assert "Dashed: the level of teacher 10v/10a." in forest.caption
    assert "Hollow" not in forest.caption


@pytest.mark.parametrize(
    ("way", "end", "words"),
    [
        (1, 1, "Each curve is one training with one schedule."),
        (1, 3, "Points on the way are of 1 training, those at the end of 3, all with one schedule."),
        (2, 3, "Points on the way are of 2 trainings, those at the end of 3, all with one schedule."),
        (2, 2, "Every point pools 2 trainings of one schedule."),
    ],
)
def test_a_curve_says_how_many_trainings_it_pools(way, end, words, tmp_path):
    runs = []
    for seed in range(end):
        told = [evaluation("a", step=9, seed=seed, training_seed=seed)]
        told += [evaluation("a", step=0, seed=seed, training_seed=seed)] if seed < way else []
        runs.append(write(tmp_path / f"a{seed}", *told))
    sections = compare_sections(gather(runs, tmp_path / "out")[0], tmp_path / "out")
    (section,) = (one for one in sections if one.heading == "Along the training")
    assert section.paragraphs[0].startswith(words)


def test_curves_of_losses_are_told_as_they_are_drawn():
    logged = [{"step": step, "video/loss": value} for step, value in enumerate([9.0] + [1.0] * 98 + [9.0])]
    told = training_alt({"a": [logged, logged]}, ["video"])
    assert "(of the first training each): video loss, a from 7 to 5" in told


def test_a_schedules_pictures_are_told_by_their_numbers():
    analysis = recipe_analysis(load_recipe("metaworld/flash_wam"))
    start = start_alt(analysis)
    assert "lcm, data from 1.00 to 0.45 and noise from 0.00 to 0.20" in start
    assert "video at sigma 1 with lcm, 0.45 x0 + 0.20 eps; action at sigma 1 with linear, x0" in start
    assert "bars of the training samples near it: video at sigma 1 36%; action at sigma 1 10%" in start
    scale = gradient_scale_alt(analysis)
    assert "linear 0.1 at sigma 0.1 and 1 at 1" in scale
    assert "video, shift 5, half of it above 0.83" in scale
    assert "action 0.18 with lcm and 0.5 with linear (this recipe)" in scale


def test_a_film_names_its_tasks(tmp_path):
    run = write(tmp_path / "flash", evaluation("flash") | {"film": "film.png"})
    strip(run / "film.png")
    rows = gather([run], tmp_path / "out")[0]
    figures = [figure for section in compare_sections(rows, tmp_path / "out") for figure in section.figures]
    (film,) = (figure for figure in figures if figure.path.name == "film.png")
    assert "Tasks from above: drawer-open, window-open, button-press-topdown, reach-wall, two-ways." in film.caption


def test_twenty_methods_have_twenty_colours_and_keep_them_beside_others(tmp_path):
    runs = [write(tmp_path / f"m{k:02}", evaluation(f"m{k:02}")) for k in range(19)]
    rows = gather(runs, tmp_path / "out")[0]
    colours = run_colours(rows, ["zz"])
    found = [to_rgb(colour) for colour in colours.values()]
    nearest = min(sum(abs(a - b) for a, b in zip(x, y, strict=True)) for i, x in enumerate(found) for y in found[:i])
    assert len(found) == 20
    assert nearest > 0.15


def test_all_figures_of_a_page_share_the_colours_of_its_methods(tmp_path, monkeypatch):
    given = []
    for name in ("draw_forest", "draw_latency", "draw_budget", "draw_training"):
        monkeypatch.setattr(
            f"flashwam.report.compare_page.{name}",
            lambda *_, colours, **__: given.append(colours) or tmp_path / "strip.png",
        )
    strip(tmp_path / "strip.png")
    runs = benchmark(tmp_path)
    rows, metrics, _ = gather(runs, tmp_path / "out")
    compare_sections(rows, tmp_path / "out", metrics=metrics)
    assert given == [run_colours(rows)] * 4
