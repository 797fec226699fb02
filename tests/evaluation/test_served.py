# SPDX-License-Identifier: Apache-2.0
"""MetaWorld driven through a server, against the same model in this process."""

import json

import numpy as np
import pytest

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

from numpy.testing import assert_array_equal
from tiny_models import save_tiny_student

from flashwam.cli import main
from flashwam.core.scenes import EVAL_SEED_BASE
from flashwam.evaluation import served
from flashwam.evaluation.local import evaluate
from flashwam.evaluation.real_time import evaluate_real_time
from flashwam.evaluation.served import evaluate_served
from flashwam.run.real_time import RealTime
from flashwam.serve.client import PolicyClient
from flashwam.serve.model import load_served
from flashwam.serve.remote_policy import RemotePolicy
from flashwam.serve.server import serving
from flashwam.sim.metaworld import MetaWorldEnv

pytestmark = pytest.mark.usefixtures("simulator")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_student(tmp_path_factory.mktemp("run") / "student")


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_served(checkpoint)


@pytest.fixture
def executed(monkeypatch):
    """Seed of every episode -> the controls it executed, one entry per episode begun."""
    begun: list[tuple[int, list[np.ndarray]]] = []
    reset, step = MetaWorldEnv.reset, MetaWorldEnv.step

    def spy_reset(self, seed, **options):
        begun.append((seed, []))
        return reset(self, seed, **options)

    def spy_step(self, action):
        next(controls for seed, controls in reversed(begun) if seed == self.seed).append(np.array(action))
        return step(self, action)

    monkeypatch.setattr(MetaWorldEnv, "reset", spy_reset)
    monkeypatch.setattr(MetaWorldEnv, "step", spy_step)
    return begun


def test_a_task_of_another_simulator_is_refused(model, tmp_path):
    told = (
        "libero_object_0 is a task of LIBERO, whose robot has 7 controls, and the model at ws.* has 4: it knows of Meta"
    )
    with serving(model) as server, pytest.raises(ValueError, match=told):
        evaluate_served(server.url, tasks=("libero_object_0",), out=tmp_path)


def test_an_episode_through_a_server_is_the_local_one(model, checkpoint, executed, tmp_path):
    (local,) = evaluate(checkpoint, nfe=("1v/2a",), seed=2, out=tmp_path / "local")
    with serving(model) as server:
        (remote,) = evaluate_served(server.url, seed=2, out=tmp_path / "served")
        with pytest.raises(FileExistsError, match="earlier measurement"):
            evaluate_served(server.url, seed=2, out=tmp_path / "served")
    (seed, here), (same, there) = executed
    assert seed == same == EVAL_SEED_BASE + 20_000
    assert len(here) == 64
    assert_array_equal(here, there)
    assert np.ptp(here, axis=0).max() > 0.1
    for task in local["tasks"].values():
        # What a served model imagines is not told.
        assert len(task.pop("motion")) == len(task.pop("first_motion")) == 1
    for task in remote["tasks"].values():
        assert task.pop("motion") == task.pop("first_motion") == []
    # Nor are the weights behind a server.
    assert "model" in local["asked"].pop("settings")
    told = ("tasks", "overall", "nfe", "kind", "step", "seed", "training_seed", "family", "run", "setting", "asked")
    assert {key: remote[key] for key in told if key in local} == {key: local[key] for key in told if key in local}
    assert local["tasks"]["faucet-turn"]["scenes"] == [seed]
    assert remote["latency"]["chunk_ms"] > 0


def test_an_episode_of_a_robot_that_goes_on_through_a_server_is_the_local_one(model, checkpoint, executed, tmp_path):
    clock = RealTime(latency_ms=40, meanwhile="go_on")
    (local,) = evaluate_real_time(checkpoint, clocks=[clock], nfe=("1v/2a",), out=tmp_path / "local")
    with serving(model) as server:
        (remote,) = evaluate_served(server.url, out=tmp_path / "served", clock=clock)
        # The latency of round trips, where none is given.
        (timed,) = evaluate_served(server.url, out=tmp_path / "served", clock=RealTime())
    (_, here), (_, there), _ = executed
    assert_array_equal(here, there)
    assert local["real_time"] == remote["real_time"] == clock.to_json()
    assert timed["real_time"]["latency_ms"] > 0
    assert timed["asked"]["real_time"]["latency_ms"] is None
    assert local["tasks"]["faucet-turn"]["lasted"] == remote["tasks"]["faucet-turn"]["lasted"] == [0.8]


def test_the_command_drives_the_same_scenes_one_by_one(model, executed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(model) as server:
        assert main(["evaluate", "--server", server.url, "--episodes", "2", "--json", "numbers.json"]) == 0
    assert [seed for seed, _ in executed] == [EVAL_SEED_BASE, EVAL_SEED_BASE + 1]
    (result,) = json.loads((tmp_path / "numbers.json").read_text())
    assert result["asked"] == {"tasks": ["faucet-turn"], "episodes": 2, "closed_loop": True}
    assert result["overall"]["episodes"] == 2
    assert json.loads((tmp_path / "runs/served/tiny/evaluations/step7_1v-2a_served_seed0.json").read_text()) == result
    assert "tiny 1v/2a served" in capsys.readouterr().out


def test_a_model_of_other_cameras_is_refused(model):
    with serving(model) as server, PolicyClient(server.url) as client:
        for change, told in (
            ({"cameras": ["a", "b"]}, "one camera"),
            ({"keyframes_per_frame": 4}, "one camera"),
            ({"cameras": []}, "does not say its cameras"),
            ({"cameras": None}, "does not say its cameras"),
            ({"actions_per_frame": None}, "does not say its actions_per_frame"),
            ({"picture_size": 64}, "must say its picture_size, height and width; got 64"),
        ):
            client.metadata = {**model.metadata, **change}
            with pytest.raises(ValueError, match=told):
                RemotePolicy(client)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "either MODEL or --server"),
        (["there", "--server", "ws://127.0.0.1:1"], "either MODEL or --server"),
        (["--server", "ws://127.0.0.1:1", "--nfe", "1v/1a"], "the server's to choose"),
        (["--server", "ws://127.0.0.1:1", "--precision", "fp8"], "the server's to choose"),
        (["there", "--random", "--precision", "fp8"], "--random drives no model"),
        (["--server", "ws://127.0.0.1:1", "--temperature", "0"], "the server's to choose"),
        (["there", "--random", "--temperature", "0"], "--random drives no model"),
        (["there", "--auxiliary", "--precision", "fp8"], "as it is: leave --precision out"),
        (["there", "--auxiliary", "--temperature", "0"], "as it is: leave --temperature out"),
        (["there", "--temperature", "warm"], "expected a temperature such as 0.5, or action=0.5 for one stream"),
        (["there", "--temperature", "nan"], "temperature must be a number from 0 to 10; got nan"),
        (["there", "--temperature", "action=11"], "temperature of action must be a number from 0 to 10; got 11"),
        (["there", "--precision", "fp4"], "invalid choice: 'fp4'"),
        (["--server", "ws://127.0.0.1:1"], "no policy server answers"),
        (["--server", "not a url"], "reads like ws://"),
        (["--server", "ws://127.0.0.1:1", "--token-file", "no/such/file"], "no/such/file"),
    ],
)
def test_wrong_arguments_are_told(capsys, arguments, told):
    try:
        status = main(["evaluate", *arguments])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert told in capsys.readouterr().err


def test_a_served_evaluation_that_was_stopped_goes_on_with_the_next_task(model, tmp_path, monkeypatch, caplog):
    tasks, driven, drive = ("reach-wall", "button-press"), [], served.drive

    def stopped(policy, task, **options):
        driven.append(task)
        if driven == list(tasks):
            raise KeyboardInterrupt
        return drive(policy, task, **options)

    request = {"tasks": tasks, "episodes": 1, "clock": RealTime(meanwhile="hold", scale=0.5)}
    monkeypatch.setattr(served, "drive", stopped)
    with serving(model) as server:
        with pytest.raises(KeyboardInterrupt):
            evaluate_served(server.url, out=tmp_path, **request)
        (path,) = (tmp_path / "unfinished").iterdir()
        measured = json.loads((path / ".measured.json").read_text())["measured"]
        with caplog.at_level("INFO"):
            (result,) = evaluate_served(server.url, out=tmp_path, **request)
        assert "going on after 1 of 2 tasks" in caplog.text
        assert driven == [*tasks, tasks[1]]
        assert result["real_time"]["latency_ms"] == measured
        assert not path.exists()
        given = RealTime(meanwhile="hold", latency_ms=measured)
        (whole,) = evaluate_served(server.url, out=tmp_path / "whole", **{**request, "clock": given})
    assert result["tasks"] == whole["tasks"]
