# SPDX-License-Identifier: Apache-2.0
"""Every committed notebook runs from top to bottom and still prints what it was committed with."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORTER = {
    "naive_against_modality_aware": {
        # Each method's best rate alone, which the sweep finds, and one seed.
        "for rate in RATES[shift]:": (
            'for rate in RATES[shift][1:2] if method == "naive" else RATES[shift][::2][shift < 1 :][:1]:'
        ),
        # A sweep of one rate finds it after any number of steps.
        "distil(shift, method, rate, 0)": 'distil(shift, method, rate, 0, "distill.steps=5")',
        'seeds = (1,) if method == "linear on both" else (1, 2)': "seeds = (1,)",
        "(0, 25, 50, 100)": "(0, 50)",
        # As sharp in fewer steps; at shift 0.05 such a teacher is none that the streams compete over.
        '"name=teacher", *SMALL)': (
            '"name=teacher", *SMALL, *(("train.steps=600", "train.lr=2e-2") if shift == 1 else ()))'
        ),
        # The rates that the search of the four cells finds.
        "error(part(*cell, rate, 0), 1.0, choosing) for rate in TRIED}": (
            '0.0 for rate in TRIED[1 + (cell == ("lcm", "linear")) :][:1]}'
        ),
        "for seed in (1, 2)]\n    parts": "for seed in (1,)]\n    parts",
        "for seed in (1, 2)]\n        late": "for seed in (1,)]\n        late",
    },
    "wrap_your_own": {
        '["name=teacher"]': '["name=teacher", "train.steps=500", "train.batch_size=32"]',
        "*changes]": '*changes, "distill.steps=80", "distill.batch_size=32"]',
    },
}
"""Notebook -> what stands in it -> what is run in its place: the same cells and claims with less training. All is run
as it stands where `FLASHWAM_TEST_NOTEBOOKS` is "whole"."""


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


def shorten(notebook, changes):
    for old, new in changes.items():
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
        cell.source = cell.source.replace(old, new)


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
    if os.environ.get("FLASHWAM_TEST_NOTEBOOKS") != "whole":
        shorten(fresh, SHORTER.get(path.stem, {}))
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
