# SPDX-License-Identifier: Apache-2.0
import json
from html.parser import HTMLParser

from matplotlib.colors import to_rgb
from synthetic import CROSS, benchmark, evaluation, strip, write

from flashwam.report.colours import run_colours
from flashwam.report.compare import compare, gather
from flashwam.report.compare_page import compare_sections


class Pictures(HTMLParser):
    def __init__(self):
        super().__init__()
        self.alts = []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.alts.append(dict(attrs)["alt"])


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
    assert "on_policy 1v/1a from 0.72 to 0.92" in budget
    assert "video loss, " in training
    assert "highest the video of teacher 10v with the actions of teacher 20a with 0.95" in cross
    assert all("what the camera saw" in alt for alt in strips)


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
