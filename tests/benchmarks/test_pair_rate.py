# SPDX-License-Identifier: Apache-2.0
"""Pairs and steps are timed as the recipes make them, and a method that fails leaves the others' rows."""

import json
from pathlib import Path

import pair_rate
import pytest


def test_pairs_are_drawn_and_learned_at_the_recipes_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made = pair_rate.measure

    def without_on_policy(name: str, arguments: object) -> list:
        if name == "on_policy":
            raise RuntimeError("no room")
        return made(name, arguments)

    monkeypatch.setattr(pair_rate, "measure", without_on_policy)
    few = ["--groups=1", "--at-once=1", "--rounds=1", f"--out={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["pair_rate.py", *few])
    with pytest.raises(SystemExit):
        pair_rate.main()
    record = json.loads((tmp_path / "cpu.json").read_text())
    first, later, whole, step = record["results"]
    assert (first["chunk"], later["chunk"]) == (0, 1)
    # Half of the batches are first chunks in this recipe, which makes 25,600 pairs.
    assert whole["seconds"] == pytest.approx(0.5 * first["seconds"] + 0.5 * later["seconds"])
    assert whole["hours"] == pytest.approx(25_600 * whole["seconds"] / 3600)
    assert step["hours"] > 0
    assert record["failed"] == ["on_policy was not measured: RuntimeError: no room"]
    assert "no room" in capsys.readouterr().out
