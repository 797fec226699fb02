# SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path
from statistics import fmean

import pytest

import flashwam

ROOT = Path(__file__).resolve().parents[1]
MEASURED = [
    ("README.md", "## What one step keeps", "one_step/comparison/compare.md"),
    ("docs/results/one_step.md", "## A one-step student near its teacher", "one_step/comparison/compare.md"),
    *(
        ("docs/results/one_step.md", title, "one_step/comparison/compare.md")
        for title in (
            "## The consistency methods in the same scenes",
            "### Drawn by another function than they were trained with",
        )
    ),
    (
        "docs/results/one_step.md",
        "## A one-step student of the miniature CogVideoX, and where it loses",
        "cogvideox_one_step/comparison/compare.md",
    ),
    ("docs/results/noise.md", "# How much noise", "one_step/comparison/noise.md"),
    ("docs/results/noise.md", "## Whose noise", "one_step/comparison/noise_roles.md"),
    ("docs/results/consistency.md", "## One-step students of the miniature LingBot-VA", "full/comparison/compare.md"),
    (
        "docs/results/consistency.md",
        "## One-step students of the miniature CogVideoX",
        "cogvideox_full/comparison/compare.md",
    ),
    ("docs/results/libero.md", "# The miniature on LIBERO", "libero/comparison/libero.md"),
    ("docs/results/cheap_students.md", "# Three ways to a cheap student", "students/comparison/students.md"),
]
H100 = ROOT / "analysis" / "results" / "rollout" / "h100.json"
GRAPHED = ROOT / "analysis/results/gpu/h100_graphed.md"
H200 = ROOT / "analysis/results/gpu/nvidia_h200_2026-11-29.json"
H200_ROWS = (
    "published 25v/50a guided",
    "published captured 25v/50a guided",
    "published 1v/1a",
    "published captured 1v/1a",
    "teacher 25v/50a guided",
    "teacher graphed 25v/50a guided",
    "student, unfused 1v/1a",
    "student 1v/1a",
    "student graphed 1v/1a",
    "student graphed 1v/2a",
)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MOST_BYTES = 9_000
MOST_ROWS = 10


def tables(text):
    """Tables of models or loops in Markdown, as model -> column -> cell."""
    head, rows = [], {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if cells[:1] in (["model"], ["loop"]):
            head = cells
        elif not cells and not line.startswith("|"):
            head = []
        elif cells and head:
            rows[cells[0]] = dict(zip(head, cells, strict=True))
    return rows


def headings(page):
    """The names that a link may give after `#`, as GitHub makes them of headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found]


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "flashwam").symlink_to(ROOT / "flashwam")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "video 0.8333" in printed
    assert "teacher {'video': (6, 8, 8), 'action': (4, 4, 1)}" in printed
    assert "'episodes': 2" in printed
    assert (tmp_path / "runs" / "analysis" / "schedule.html").is_file()


def test_every_public_name_is_listed_and_there():
    text = (ROOT / "README.md").read_text()
    for name in flashwam.__all__:
        assert f"`{name}`" in text or f"`flashwam.{name}`" in text
        assert callable(getattr(flashwam, name))


@pytest.mark.parametrize(("page", "title", "results"), MEASURED)
def test_tables_say_what_was_measured(page, title, results):
    (_, section) = (ROOT / page).read_text().split(title + "\n")
    shown = tables(re.split(r"^#", section, maxsplit=1, flags=re.M)[0])
    measured = tables((ROOT / "analysis" / "results" / results).read_text())
    assert len(shown) >= 5
    for model, cells in shown.items():
        # A table of results leaves out a column in which none of its rows has anything.
        assert cells == {column: measured[model].get(column, "-") for column in cells}, model


def test_differences_are_those_of_the_study():
    rows = (ROOT / "analysis/results/one_step/comparison/differences.md").read_text().splitlines()
    shown = [line for page in PAGES for line in page.read_text().splitlines() if re.match(r"\| \S+ less \S+ \|", line)]
    assert len(shown) > 40
    assert set(shown) <= set(rows)


def test_the_run_on_an_h200_is_told_as_it_was_kept():
    steps = {step["name"]: step for step in json.loads(H200.read_text())["steps"]}
    rows = {(h["history"], row["name"]): row for h in steps["rollout"]["results"][0]["results"] for row in h["rows"]}
    (_, section) = (ROOT / "docs/results/speed.md").read_text().split("## On a GPU\n")
    lines = re.findall(r"^\| ((?:published|the same|our).*?) \|$", section, flags=re.M)
    published = rows[2, "published 25v/50a guided"]["ms"]
    for line, name in zip(lines, H200_ROWS, strict=True):
        _, passes, young, faster, full = (cell.strip("* ") for cell in line.split(" | "))
        row, later = rows[2, name], rows.get((36, name))
        assert int(passes) == row["passes"], name
        assert young == milliseconds(row["ms"]), name
        assert float(faster.rstrip("x")) == pytest.approx(published / row["ms"], rel=0.02), name
        assert full == (milliseconds(later["ms"]) if later else "not measured"), name
    young, full = (milliseconds(rows[history, "student graphed 1v/1a"]["ms"]) for history in (2, 36))
    for page in ("README.md", "docs/results/speed.md", "docs/real_time.md"):
        text = " ".join((ROOT / page).read_text().split())
        assert f"{young} ms a chunk" in text or f"{young} / {full} ms" in text, page
        assert milliseconds(published) in text, page


def milliseconds(value):
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def test_the_look_at_a_gpu_is_one_everywhere():
    """The pages cite the times that were noted, and the table of these was worked out from them."""
    rows = json.loads(H100.read_text())["results"][0]["rows"]
    published, *_ = rows
    table = tables(H100.with_suffix(".md").read_text())
    assert list(table) == [row["name"] for row in rows]
    for row in rows:
        _, passes, ms, faster = table[row["name"]].values()
        assert (int(passes), ms, faster) == (row["passes"], f"{row['ms']:,}", f"{published['ms'] / row['ms']:.1f}x")
    noted = re.search(r"^\| bfloat16, 1v/1a \| 2 \| after \|(.*?)\|(.*?)\|", GRAPHED.read_text(), flags=re.M)
    young, full = (cell.strip(" *") for cell in noted.groups())
    for page in ("README.md", "docs/lingbot_va.md", "docs/results/speed.md", "docs/real_time.md"):
        text = " ".join((ROOT / page).read_text().split())
        assert re.search(rf"{young} (ms|/ {full} ms|and {full} ms)", text), page
        assert re.search(rf"{full} ms", text), page
    assert f"{published['ms']:,} ms" in (ROOT / "docs/lingbot_va.md").read_text()
    once = "rollouts and training steps of LingBot-VA at its real size have been timed with random weights"
    for page in ("docs/lingbot_va.md", "docs/videovla.md"):
        assert once in " ".join((ROOT / page).read_text().split()), page


def test_the_readme_is_short_and_has_one_table_of_results():
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= MOST_BYTES
    assert len(re.findall(r"^\| model \|", text, re.M)) == 1
    assert len(tables(text)) <= MOST_ROWS


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    """A page names files of the repository, and headings of other pages, that are there."""
    for name in re.findall(
        r"`((?:flashwam|tests|recipes|analysis|benchmarks|docs|notebooks)/[\w/.-]+\.\w+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), name
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in headings(file), target


def test_the_page_about_the_mechanism_has_the_studys_numbers():
    text = (ROOT / "docs/naive_against_modality_aware.md").read_text()
    rows = json.loads((ROOT / "analysis/results/mechanism/comparison/mechanism.json").read_text())["rows"]
    blocks = {}
    for row in (row for row in rows if row["cell"] and row["sampler"] == "own"):
        block = (*(row["cell"][key] for key in ("anchors", "steps", "horizons")), row["kind"])
        blocks.setdefault(block, []).append(row)
    # A search that has not ended has not all four cells.
    whole = [block for block in blocks.values() if len(block) == 4]
    gaps = (ROOT / "analysis/results/mechanism/comparison/mechanism.md").read_text().split("\n\n")[1]
    assert gaps.strip() in text
    assert len(whole) == 8
    for row in (row for block in whole for row in block):
        error = fmean(row["action_error_teacher"])
        numbers = f"{error:.4f} | {row['two-way']['success']} | {row['one-way']['success']} |"
        cell = row["cell"]
        # Long trainings, and those of faster targets, have the rate of others.
        other = row["kind"] == "searched" and (cell["steps"] > 1000 or cell["horizons"] != 10)
        kind = "taken over" if other else row["kind"]
        named = rf"\| `{cell['start']}` \| `{cell['weight']}` \| [^|]*{kind} \| "
        assert re.search(named + re.escape(numbers), text), row["cell"]
