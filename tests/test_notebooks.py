# SPDX-License-Identifier: Apache-2.0
"""Every committed notebook runs from top to bottom and still prints what it was committed with."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def printed(notebook):
    return [
        "".join(
            output.text
            for output in cell.get("outputs", [])
            if output.output_type == "stream" and output.name == "stdout"
        )
        for cell in notebook.cells
    ]


def pictures(notebook):
    return [any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])) for cell in notebook.cells]


def test_there_are_notebooks():
    assert "schedule_analysis" in {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_prints_what_was_committed(path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    committed = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    nbclient.NotebookClient(
        fresh, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    assert printed(fresh) == printed(committed)
    assert pictures(fresh) == pictures(committed)


def test_the_schedule_notebook_holds_the_known_values():
    text = (ROOT / "notebooks" / "schedule_analysis.ipynb").read_text()
    for value in (
        "36.44",
        "22 times less gradient than video gets",
        "0.1138",
        "0.6176",
        "0.0554",
        "0.3333",
        "0.754",
        "0.639",
        "draw from one schedule",
    ):
        assert value in text, value
