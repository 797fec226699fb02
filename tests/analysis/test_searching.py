# SPDX-License-Identifier: Apache-2.0
"""The search for a learning rate."""

import json

import pytest
import searching
from searching import LADDER, choose_rate, search_rate, write_rate

from flashwam.core.checks import UnsoundError
from flashwam.system.errors import DivergedError


@pytest.mark.parametrize(
    ("error", "further"),
    [
        ({3e-4: 3.0, 1e-3: 2.0, 3e-3: 2.5}, None),
        ({3e-4: 1.0, 1e-3: 2.0, 3e-3: 3.0}, 1e-4),
        ({3e-4: 3.0, 1e-3: 2.0, 3e-3: 1.0}, 1e-2),
        ({1e-3: 1.0}, 3e-4),
        ({3e-4: float("inf"), 1e-3: float("inf")}, 1e-4),
    ],
)
def test_a_search_ends_inside_of_what_was_tried(error, further):
    assert search_rate(error) == further


def test_a_search_that_runs_off_the_ladder_says_so():
    with pytest.raises(ValueError, match="at the end of"):
        search_rate({rate: -rate for rate in LADDER})


def test_a_search_goes_on_beyond_its_edge_and_adds_up_its_trainings(tmp_path):
    tried = []

    def error(rate, seed):
        tried.append((rate, seed))
        return float("inf") if rate > 1e-2 else abs(LADDER.index(rate) - 6) + 0.1 * seed

    begun = tmp_path / "tried.json"

    def interrupted(rate, seed):
        if len(tried) == 3:
            raise KeyboardInterrupt
        return error(rate, seed)

    where = {"rates": (3e-4, 1e-3, 3e-3), "seeds": (0, 1), "tried": begun}
    with pytest.raises(KeyboardInterrupt):
        choose_rate(interrupted, **where)
    write_rate(tmp_path / "rate.json", choose_rate(error, **where))
    assert tried == [(rate, seed) for rate in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2) for seed in (0, 1)], "each of them once"
    assert json.loads(begun.read_text())["0.03"] == {"0": None, "1": None}
    told = json.loads((tmp_path / "rate.json").read_text())
    assert (told["lr"], told["trainings"]) == (1e-2, 2)
    assert told["action_error_teacher"]["0.03"] is None
    assert told["action_error_teacher"]["0.003"] == pytest.approx(1.05)


@pytest.mark.parametrize("found", [None, float("nan"), DivergedError("loss inf"), UnsoundError("chunk 1")])
def test_a_rate_that_diverges_is_the_worst_one(tmp_path, monkeypatch, found):
    def judge(*_, **__):
        if isinstance(found, Exception):
            raise found
        return [{"open_loop": {"action_error_teacher": found}}]

    monkeypatch.setattr(searching, "distill", lambda *_, **__: None)
    monkeypatch.setattr(searching, "evaluate", judge)
    assert searching.action_error(None, tmp_path, "1v/1a") == float("inf")
