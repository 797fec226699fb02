# SPDX-License-Identifier: Apache-2.0
"""Models are timed in turns in the numbers that they are evaluated in, and a table keeps the two apart."""

import json

import pytest
from tiny_models import save_tiny_student

from flashwam.evaluation.latency import latency_table
from flashwam.evaluation.policy import load_policy
from flashwam.report.compare import gather
from flashwam.run.evaluation import Evaluation, TaskNumbers
from flashwam.run.folder import INFO_FILE


@pytest.fixture
def student(tmp_path):
    folder = save_tiny_student(tmp_path / "run" / "student", joint=True)
    info = json.loads((folder / INFO_FILE).read_text())
    info["recipe"]["rollout"] = {"precision": "fp8"}
    (folder / INFO_FILE).write_text(json.dumps(info))
    return folder


def test_a_model_is_timed_as_its_recipe_says(student, tmp_path):
    policy = load_policy(student)
    assert list(latency_table([(policy, "1v/1a")], out=tmp_path, rounds=1)) == ["tiny 1v/1a fp8"]
    assert policy.wam.precision == "fp8"
    noted = json.loads((tmp_path / "latency.json").read_text())["models"]
    assert noted == {"tiny 1v/1a fp8": {"run": "run", "step": 7}}


def test_what_was_timed_in_other_numbers_is_no_latency_of_a_row(tmp_path):
    for run, precision in (("exact", "own"), ("rounded", "fp8")):
        tasks = {"reach": TaskNumbers(episodes=4, success=2)}
        one = Evaluation(run=run, nfe={"video": 1, "action": 1}, tasks=tasks, precision=precision, seed=0)
        one.write(tmp_path / run / "evaluations" / "one.json")
    runs = [tmp_path / "exact", tmp_path / "rounded"]
    found = []
    for table in ({"exact 1v/1a": 9.0, "rounded 1v/1a": 8.0}, {"exact 1v/1a": 9.0, "rounded 1v/1a fp8": 5.0}):
        told = {label: {"chunk_ms": value} for label, value in table.items()}
        (tmp_path / "latency.json").write_text(json.dumps(told))
        found.append({row.run: row.latency.get("chunk_ms") for row in gather(runs, tmp_path)[0]})
    assert found == [{"exact": 9.0, "rounded": None}, {"exact": 9.0, "rounded": 5.0}]
