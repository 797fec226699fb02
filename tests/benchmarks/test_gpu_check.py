# SPDX-License-Identifier: Apache-2.0
"""A short run on a GPU leaves a file that says of every step how it went, whatever happens to one."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import gpu_check
import gpu_steps
import pytest
from gpu_steps import Step, all_steps, missing_packages, run_step

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, folder: Path, *, limit: float = 30.0) -> dict:
    return run_step(
        Step(name="it", command=("-c", code), limit=limit), environment=os.environ, folder=folder, limit=limit
    )


def test_a_tiny_run_writes_what_it_measured_in_both_places(tmp_path: Path) -> None:
    out, other = tmp_path / "kept", tmp_path / "other"
    environment = {**os.environ, "OUT": str(other), "PYTHON": sys.executable}
    command = ["benchmarks/gpu_check.sh", "--tiny", "--only", "rollout", "8-bit rollout", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.json")
    record = json.loads(path.read_text())
    assert record == json.loads((other / path.name).read_text())
    assert record["card"] is None
    assert record["date"] in path.name
    step, short = record["steps"]
    assert (step["name"], step["state"], step["missing"]) == ("rollout", "done", [])
    rows = {row["name"]: row for row in step["results"][0]["results"][0]["rows"]}
    assert rows["published 2v/2a guided"]["ms"] > rows["student 1v/1a"]["ms"] > 0
    assert rows["student 1v/1a"]["spread"]["count"] == 2
    assert rows["student 1v/1a"]["floor"]["seconds"] > 0
    (rounded,) = (row for row in short["results"][0]["results"][0]["rows"] if row["name"] == "student fp8 1v/1a")
    assert (rounded["passes"], rounded["spread"]["count"]) == (rows["student 1v/1a"]["passes"], 2)
    assert rounded["floor"]["linear"] > 0
    captured = rows["published captured 1v/1a"]
    assert (captured["ms"], captured["why"]) == (None, "a CPU has no CUDA graphs")
    page = path.with_suffix(".md").read_text()
    assert "| rollout | done |" in page
    assert "not measured: a CPU has no CUDA graphs" in page


def test_the_steps_come_in_their_order_and_fit_into_eight_minutes() -> None:
    steps = all_steps(tiny=False, device="cuda", out=Path("out"))
    names = ["tests", "rollout", "8-bit rollout", "joint", "training", "serving", "pairs"]
    assert [step.name for step in steps] == names
    assert sum(step.limit for step in steps) <= gpu_check.WHOLE <= 480
    assert all("cuda" in " ".join([*step.command, *step.environment.values()]) for step in steps)


def test_an_interpreter_without_torch_is_told_what_to_do(tmp_path: Path) -> None:
    plain = venv.EnvBuilder(with_pip=False)
    plain.create(tmp_path / "plain")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(tmp_path / "plain" / "bin" / "python"), str(ROOT / "benchmarks/gpu_check.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot import torch: set PYTHON" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_step_that_fails_says_how_and_keeps_what_it_had(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'a.json')!r}, 'w').write('[1]'); raise SystemExit('no such card')"
    found = run(code, tmp_path)
    assert (found["state"], found["results"], found["output"]) == ("failed", [[1]], "no such card")


def test_a_step_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; print('begun', flush=True); subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    found = run(child, tmp_path, limit=2.0)
    assert (found["state"], found["output"]) == ("timed out", "begun")
    assert found["seconds"] < 30


def test_a_step_of_parts_is_done_when_all_are(tmp_path: Path) -> None:
    code = "import os; number = os.environ['FLASHWAM_TEST_PART']; print(number); raise SystemExit(number == '1/2')"
    step = Step(name="it", command=("-c", code), limit=30.0, parts=2)
    found = run_step(step, environment=os.environ, folder=tmp_path, limit=30.0)
    assert (found["state"], found["output"].splitlines()) == ("failed", ["0/2", "1/2"])


def test_what_a_step_has_so_far_is_told_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run which is cut off from outside has kept it."""
    monkeypatch.setattr(gpu_steps, "EVERY", 0.3)
    code = f"import time; open({str(tmp_path / 'a.json')!r}, 'w').write('[1]'); time.sleep(1.5)"
    so_far: list[dict] = []
    step = Step(name="it", command=("-c", code), limit=30.0)
    found = run_step(step, environment=os.environ, folder=tmp_path, limit=30.0, told=so_far.append)
    assert found["state"] == "done"
    assert (so_far[-1]["state"], so_far[-1]["results"]) == ("running", [[1]])


def test_packages_that_are_missing_are_named(tmp_path: Path) -> None:
    assert missing_packages(("json", "no_such_package"), os.environ) == ["no_such_package"]
    step = Step(name="it", command=("-c", "pass"), limit=9.0, needs=("no_such_package",))
    told = gpu_check.one(step, dict(os.environ), tmp_path, 9.0, lambda _: None)
    assert (told["state"], told["missing"]) == ("not run: packages are missing", ["no_such_package"])
    late = Step(name="it", command=("-c", "pass"), limit=9.0, needs=())
    assert gpu_check.one(late, dict(os.environ), tmp_path, 0.5, lambda _: None)["state"] == "not run: no time was left"


def test_wheels_are_unpacked_and_installed_packages_taken_as_they_are(tmp_path: Path) -> None:
    wheels, installed = tmp_path / "wheels", tmp_path / "installed"
    wheels.mkdir()
    installed.mkdir()
    with zipfile.ZipFile(wheels / "carried-1-py3-none-any.whl", "w") as archive:
        archive.writestr("carried/__init__.py", "")
    where = gpu_check.packages(wheels, tmp_path / "scratch")
    assert (where / "carried" / "__init__.py").is_file()
    assert gpu_check.packages(installed, tmp_path / "scratch") == installed
    assert missing_packages(("carried",), {**os.environ, "PYTHONPATH": str(where)}) == []


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    first = gpu_check.free_path(tmp_path, "card_day")
    first.write_text("{}")
    assert gpu_check.free_path(tmp_path, "card_day").name == "card_day_2.json"


def test_a_machine_without_a_gpu_is_told_of_tiny(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(gpu_check, "machine", lambda *_: {"card": None})
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert gpu_check.main() == 2
    assert "--tiny tries the script without one" in capsys.readouterr().out
