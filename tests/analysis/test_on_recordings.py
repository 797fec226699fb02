# SPDX-License-Identifier: Apache-2.0
"""The page's table of recordings beside success is that of the committed measurements."""

import json
from pathlib import Path

import on_recordings
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPARISON = ROOT / "analysis" / "results" / "one_step" / "comparison"


@pytest.fixture(scope="module")
def told():
    return json.loads((COMPARISON / "recordings.json").read_text())


def test_the_page_has_the_table_and_the_rank_correlations(told):
    page = (ROOT / "docs" / "results" / "one_step.md").read_text()
    lines = on_recordings.table(told).splitlines()
    for line in lines[: len(told["rows"]) + 2]:
        assert line in page, line
    for orders in told["rank correlation"].values():
        for value in orders.values():
            assert f"{value:+.2f}" in page


def test_success_is_that_of_the_study(told):
    study = {row["label"]: row for row in json.loads((COMPARISON / "compare.json").read_text())["rows"]}
    for row in told["rows"]:
        for group, kept in row["of_teacher"].items():
            assert kept["value"] == pytest.approx(study[row["label"]]["of_teacher"][group]["value"])
    labels = [one["label"] for one in told["trainings"]]
    assert {label: labels.count(label) for label in labels} == {row["label"]: row["trainings"] for row in told["rows"]}


def test_the_order_is_that_of_ranks():
    told = [{"a": number, "b": -(number**3)} for number in range(5)]
    assert on_recordings._order(told, "a", "b") == pytest.approx(-1)


def test_a_point_is_drawn_for_every_training(told, tmp_path):
    assert on_recordings.draw(told, tmp_path / "a.png").stat().st_size > 10_000
