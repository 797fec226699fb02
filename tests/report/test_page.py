# SPDX-License-Identifier: Apache-2.0
import base64
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from flashwam.report.figures import new_figure, save_figure
from flashwam.report.page import Callout, Figure, Section, Table, build_page, write_page


class Balanced(HTMLParser):
    VOID = frozenset({"meta", "img", "br", "wbr"})

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return " ".join(parser.text)


@pytest.fixture
def png(tmp_path):
    with new_figure(1, 1) as figure:
        figure.subplots().plot([0, 1])
        return save_figure(figure, tmp_path / "f.png", dpi=40)


def test_a_page_holds_its_images_and_refers_to_nothing(png):
    page = build_page("T", [Section(heading="H", figures=(Figure(path=png, caption="c", alt="a line"),))])
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(data) == png.read_bytes()
    assert "http" not in page
    assert "<script" not in page
    assert re.findall(r'(?:href|src)="(?!#|data:)', page) == []
    assert re.findall(r"url\(|@import", page) == []


def test_text_is_escaped_and_lightly_marked_up():
    section = Section(heading="a < b", paragraphs=("use `x<y>` and **bold** & more",), notes=("n",))
    page = build_page("T & U", [section])
    assert "<code>x&lt;y&gt;</code> and <strong>bold</strong> &amp; more" in page
    assert "a < b" in parse(page)


def test_tables_and_callouts_are_shown_and_checked():
    table = Table(columns=("a", "b"), rows=[("1", "2"), ("3", "4")], emphasised=frozenset({1}), caption="cap")
    page = build_page("T", [Section(heading="H", tables=(table,), callouts=(Callout(text="beware", kind="warning"),))])
    assert '<div class="callout warning">beware</div>' in page
    assert "<tr class=strong><td>3</td><td>4</td></tr>" in page
    with pytest.raises(ValueError, match="2 cells"):
        build_page("T", [Section(heading="H", tables=(Table(columns=("a", "b"), rows=[("1",)]),))])
    with pytest.raises(ValueError, match="callout"):
        build_page("T", [Section(heading="H", callouts=(Callout(text="x", kind="loud"),))])


def test_contents_lead_to_every_section():
    page = build_page("T", [Section(heading=h) for h in "abc"])
    assert re.findall(r'href="#(\w+)"', page) == re.findall(r'<h2 id="(\w+)"', page) == ["s1", "s2", "s3"]


def test_writing_replaces_the_page_and_leaves_nothing_else(tmp_path):
    for text in ("first", "second"):
        path = write_page(tmp_path / "p.html", text, [])
    assert "second" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["p.html"]


def test_equal_numbers_give_equal_figures(tmp_path):
    for name in ("a.png", "b.png"):
        with new_figure(1, 1) as figure:
            figure.subplots().plot([0, 1])
            save_figure(figure, tmp_path / name, dpi=40)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_wide_columns_break_at_their_slashes_and_prose_into_lines():
    table = Table(columns=("a/b, `c`", "what it is"), rows=[("1/2", "words")], prose=frozenset({1}))
    page = build_page("T", [Section(heading="H", tables=(table,))])
    assert "<th>a/<wbr>b, <code>c</code></th><th class=prose>what it is</th>" in page
    assert "<td>1/2</td><td class=prose>words</td>" in page


def test_paper_is_never_dark(png):
    """Dark colours are asked for on a screen alone, and a printed table is whole."""
    page = build_page("T", [Section(heading="H", figures=(Figure(path=png, alt="a line"),))])
    assert re.findall(r"@media([^{]*prefers-color-scheme[^{]*)", page) == [" screen and (prefers-color-scheme:dark)"]
    (paper,) = re.findall(r"@media print\{(.*?\})\}", page, re.DOTALL)
    assert "overflow:visible" in paper
    assert "nav{display:none}" in paper


def test_a_film_stands_above_the_contents_and_is_still_on_paper(png, tmp_path):
    with Image.open(png) as image:
        image.save(tmp_path / "film.gif")
    film = Figure(path=tmp_path / "film.gif", still=png, alt="two arms", caption="In real time.")
    page = build_page("T", [Section(heading=h) for h in "abc"], film=film)
    assert page.index("data:image/gif;base64,") < page.index("<nav>")
    assert '<img class="still" alt="two arms" src="data:image/png;base64,' in page
    assert page.count("img.film{display:none}img.still{display:block}") == 2
    assert "In real time." in parse(page)
    with pytest.raises(ValueError, match="GIF films with a still"):
        build_page("T", [Section(heading="H", figures=(Figure(path=tmp_path / "film.gif", alt="moves"),))])
