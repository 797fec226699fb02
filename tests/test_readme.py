# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

import pytest

import flashwam

ROOT = Path(__file__).resolve().parents[1]
MEASURED = {
    "## What we measured": "full/comparison/compare.md",
    "### The other family, on the same episodes": "cogvideox_full/comparison/compare.md",
    "### Three ways to a cheap student": "students/comparison/students.md",
}


def tables(text):
    """Tables of models in Markdown, as model -> column -> cell."""
    head, rows = [], {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if cells[:1] == ["model"]:
            head = ["several ways" if cell == "two-way tasks" else cell for cell in cells]
        elif not cells and not line.startswith("|"):
            head = []
        elif cells and head:
            rows[cells[0]] = dict(zip(head, cells, strict=True))
    return rows


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "analysis").symlink_to(ROOT / "analysis")
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


@pytest.mark.parametrize("title", MEASURED)
def test_its_tables_say_what_was_measured(title):
    (_, section) = (ROOT / "README.md").read_text().split(title + "\n")
    shown = tables(re.split(r"^#", section, maxsplit=1, flags=re.M)[0])
    measured = tables((ROOT / "analysis" / "results" / MEASURED[title]).read_text())
    assert len(shown) >= 10
    for model, cells in shown.items():
        assert cells == {column: measured[model][column] for column in cells}, model
