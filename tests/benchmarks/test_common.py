# SPDX-License-Identifier: Apache-2.0
"""A result names the command that made it."""

import argparse

import common
import pytest


def test_the_command_is_told_but_for_where_results_go(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--sizes", "6 x 256", "--out", "/tmp/a", "--rounds=2", "--out=b"]
    monkeypatch.setattr("sys.argv", ["/x/rollout.py", *words])
    told = common.about("/x/rollout.py", argparse.Namespace(rounds=2))
    assert told["command"] == "python benchmarks/rollout.py --sizes '6 x 256' --rounds=2"
    assert told["arguments"] == {"rounds": "2"}
