# SPDX-License-Identifier: Apache-2.0
"""A served policy on LIBERO: its traffic, what goes on after a stop, and all of it together where LIBERO is here."""

import json
from dataclasses import replace

import numpy as np
import pytest
from libero_here import needs_libero, skip_without_rendering
from libero_stand_ins import MODEL, Counting, Recording, libero_stand_in

from flashwam.cli import main
from flashwam.evaluation import libero as driver
from flashwam.evaluation import libero_episodes as episodes
from flashwam.evaluation.libero_episodes import Ended
from flashwam.evaluation.served_episode import drive_episode
from flashwam.run.evaluation import read_evaluation
from flashwam.sim.contract import Environment


def shown(observation):
    return {int(picture[0, 0, 0]) for picture in observation.values()}


def test_the_traffic_is_the_published_client_s():
    env, client = Counting(ends=30), Recording()
    assert isinstance(env, Environment)
    outcome = drive_episode(client, env, scene=3, seed=5)
    assert (env.scene, outcome.success, outcome.steps, len(outcome.chunk_ms)) == (3, False, 30, 3)
    assert [one[0] for one in client.asked] == ["reset", "infer", "refresh", "infer", "refresh", "infer"]
    assert client.asked[0] == ("reset", "count", 5)
    # The first chunk has a frame of padding, and every chunk is asked for with the first pictures.
    assert all(shown(one[1]) == {0} for one in client.asked if one[0] == "infer")
    seen = [[shown(each) for each in one[1]] for one in client.asked if one[0] == "refresh"]
    assert seen == [[{step} for step in range(1, 13)], [{step} for step in range(13, 29)]]
    states = [one[2] for one in client.asked if one[0] == "refresh"]
    assert [state.shape for state in states] == [(7, 4, 4)] * 2
    first = np.arange(112).reshape(7, 4, 4) + 1000
    np.testing.assert_array_equal(np.array(env.done[:12]).T, first[:, 1:].reshape(7, -1))
    np.testing.assert_array_equal(np.array(env.done[12:28]).T, (first + 1000).reshape(7, -1))
    assert outcome.film[:, :, 0, 0, 0].tolist() == [[0, 12, 28, 30]] * 2


def test_an_episode_ends_with_success_and_tells_no_more():
    env, client = Counting(succeeds=14), Recording()
    assert drive_episode(client, env, scene=0, seed=0).success
    assert [one[0] for one in client.asked] == ["reset", "infer", "refresh", "infer"]
    assert env.steps == 14


def test_pictures_and_state_are_as_many_as_the_model_has():
    client = Recording({**MODEL, "keyframes_per_frame": 2, "senses": {"state": 8}})
    drive_episode(client, Counting(ends=20), scene=0, seed=0)
    told = client.asked[2][1]
    assert [each["observation.state"].tolist() for each in told] == [[float(n)] * 8 for n in range(2, 13, 2)]
    assert told[0]["observation.state"].dtype == np.float32
    with pytest.raises(ValueError, match="do not lie evenly between 4 pictures"):
        drive_episode(Recording(per_frame=6), Counting(), scene=0, seed=0)


@pytest.fixture
def suite(monkeypatch, tmp_path):
    """Three tasks of a suite and a server of another make."""
    stand_in, told = libero_stand_in(monkeypatch, tmp_path), dict(MODEL)
    for module in (driver, episodes):
        monkeypatch.setattr(module, "PolicyClient", lambda url, token=None: Recording(told))
    stand_in.told = told
    return stand_in


def evaluated(suite, *more):
    command = ["evaluate", "--server", "ws://x", "--sim", "libero", "--suite", "libero_10", "--episodes", "2"]
    return main([*command, "--max-steps", "20", "--out", str(suite.out), *more])


def test_a_suite_becomes_an_evaluation_that_says_how_it_was_driven(suite, capsys):
    assert evaluated(suite, "--tasks", "do_1,0", "--json", "-") == 0
    (result,) = json.loads(capsys.readouterr().out)
    (file,) = suite.out.glob("*.json")
    assert file.name == "step7_1v-1a_libero_10_lingbot_va_seed0.json"
    assert not list((suite.out / "unfinished").iterdir())
    found = read_evaluation(file)
    assert list(found.tasks) == ["do_0", "do_1"]
    assert [one.outcomes for one in found.tasks.values()] == [(1, 1), (0, 0)]
    assert found.tasks["do_0"].scenes == (0, 1)
    assert (found.overall.success, found.overall.episodes, found.overall.steps) == (2, 4, 16.5)
    told = result["simulator"]
    assert told["instructions"] == {"do_0": "do 0", "do_1": "do 1"}
    assert (told["convention"]["name"], told["convention"]["max_steps"]) == ("lingbot_va*", 20)
    assert all((suite.out / name).is_file() for name in told["films"].values())
    assert result["guidance"] == {"video": 5.0}
    assert evaluated(suite, "--tasks", "do_1,0") == 2
    assert "holds an earlier measurement" in capsys.readouterr().err


def test_its_films_are_shown_beside_its_success(suite, tmp_path, capsys, caplog):
    assert evaluated(suite, "--out", str(tmp_path / "served" / "evaluations")) == 0
    capsys.readouterr()
    page = tmp_path / "page"
    assert main(["compare", str(tmp_path / "served"), "--out", str(page)]) == 0
    shown = (page / "compare.html").read_text()
    section = shown.split("What the cameras saw</h2>")[1].split("<h2")[0]
    assert section.count("data:image/png;base64,") == 3
    for index in range(3):
        assert f"student 1v/1a, do_{index}: moments of the first episode." in section
    assert section.count("what was seen while student 1v/1a drove do_") == 3
    (gone,) = (tmp_path / "served" / "evaluations").glob("*_task1.png")
    gone.unlink()
    assert main(["compare", str(tmp_path / "served"), "--out", str(page)]) == 0
    assert (page / "compare.html").read_text().count("what was seen while") == 2
    assert "name pictures that are not there" in caplog.text


def test_an_evaluation_that_was_stopped_goes_on_with_the_next_episode(suite, capsys):
    suite.stops.add((1, 1))
    assert evaluated(suite) == 130
    suite.stops.clear()
    assert suite.driven == [(0, 0), (0, 1), (1, 0)]
    # As if it had been stopped while it wrote another one down.
    (begun,) = (suite.out / "unfinished").iterdir()
    begun.write_text(begun.read_text() + '{"task": "do_1", "epi')
    capsys.readouterr()
    assert evaluated(suite, "--convention", "common") == 0
    del suite.driven[:]
    assert evaluated(suite, "--idle-steps", "3") == 2
    assert "was begun with other convention" in capsys.readouterr().err
    suite.told["step"] = 7
    suite.told["precision"] = "fp8"
    assert evaluated(suite) == 2
    assert "was begun with other model" in capsys.readouterr().err
    del suite.told["precision"]
    assert evaluated(suite) == 0
    assert suite.driven == [(1, 1), (2, 0), (2, 1)]
    (file,) = suite.out.glob("*lingbot*.json")
    found = read_evaluation(file)
    assert [one.outcomes for one in found.tasks.values()] == [(1, 1), (0, 0), (0, 0)]
    assert not begun.exists()


@pytest.mark.parametrize(("begun", "chunks"), [(0, {}), (1, {"do_0": 7.0}), (3, {"do_0": 7.0, "do_1": 7.0})])
def test_time_is_that_of_episodes_which_were_driven_alone(suite, monkeypatch, begun, chunks):
    """Some by a process, and after a stop the others by four, or the other way round."""

    def by_processes(drive, wanted, **how):
        for task, episode in wanted:
            yield Ended(task=task.name, episode=episode, success=True, steps=1, chunk_ms=(1200.0,))

    drive_one = episodes.drive_episode
    timed = lambda *given, **how: replace(drive_one(*given, **how), chunk_ms=(7.0,))  # noqa: E731
    monkeypatch.setattr(episodes, "done_by_processes", by_processes)
    monkeypatch.setattr(episodes, "drive_episode", timed)
    suite.stops.add((begun // 2, begun % 2))
    assert evaluated(suite) == 130
    assert evaluated(suite, "--processes", "4") == 0
    (file,) = suite.out.glob("*.json")
    found = read_evaluation(file)
    assert found.more["simulator"]["chunk_ms"] == chunks
    assert found.latency == ({"chunk_ms": 7.0} if chunks else {})


def test_episodes_of_several_processes_are_no_time_of_one_that_goes_on_alone(suite, monkeypatch):
    def stopped(drive, wanted, **how):
        for task, episode in wanted[:3]:
            yield Ended(task=task.name, episode=episode, success=True, steps=1, chunk_ms=(1200.0,))
        raise KeyboardInterrupt

    monkeypatch.setattr(episodes, "done_by_processes", stopped)
    assert evaluated(suite, "--processes", "4") == 130
    assert evaluated(suite) == 0
    (file,) = suite.out.glob("*.json")
    found = read_evaluation(file)
    assert list(found.more["simulator"]["chunk_ms"]) == ["do_1", "do_2"]
    assert found.latency["chunk_ms"] < 1000


@pytest.mark.parametrize(
    ("told", "fault"),
    [({"cameras": ["observation.images.front"]}, "trained on LIBERO"), ({"controls": 4}, "7 controls")],
)
def test_a_model_of_another_robot_is_refused(suite, capsys, told, fault):
    suite.told.update(told)
    assert evaluated(suite) == 2
    assert fault in capsys.readouterr().err


def test_a_server_that_says_nothing_of_itself_is_driven(suite):
    suite.told.clear()
    assert evaluated(suite, "--tasks", "0") == 0
    (file,) = suite.out.glob("*.json")
    assert read_evaluation(file).overall.success == 2


def test_as_many_episodes_are_driven_as_there_are_states(suite):
    common = ["evaluate", "--server", "ws://x", "--sim", "libero", "--suite", "libero_10", "--tasks", "2"]
    assert main([*common, "--max-steps", "20", "--out", str(suite.out)]) == 0
    (file,) = suite.out.glob("*.json")
    assert read_evaluation(file).asked.episodes == 4


def test_more_episodes_than_states_are_refused(suite, capsys):
    assert evaluated(suite, "--episodes", "5") == 2
    assert "4 initial states; ask for at most so many" in capsys.readouterr().err


def test_a_task_without_initial_states_is_left_out(suite, capsys, caplog):
    np.savez(suite.tasks[1].states_file, states=np.zeros(0))
    assert evaluated(suite, "--json", "-") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (list(result["tasks"]), result["asked"]["tasks"]) == (["do_0", "do_2"],) * 2
    assert list(result["simulator"]["instructions"]) == ["do_0", "do_2"]
    assert result["simulator"]["left_out"] == ["do_1"]
    assert "do_1 has no initial state in libero_10, so no episode of it can begin: it is left out" in caplog.text
    for chosen in ("1", "0,1"):
        assert evaluated(suite, "--tasks", chosen, "--out", str(suite.out / "b")) == 2
        assert "do_1 has no initial state in libero_10" in (told := capsys.readouterr().err)
        assert "leave it out of --tasks" in told
    for task in suite.tasks:
        np.savez(task.states_file, states=np.zeros(0))
        vars(task).pop("states", None)
    assert evaluated(suite, "--out", str(suite.out / "b")) == 2
    assert "no task of libero_10 has initial states: drive another suite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--suite", "libero_10", "--server", "ws://x"], "--suite is for LIBERO: add --sim libero"),
        (["--max-steps", "4", "--server", "ws://x"], "--max-steps is for LIBERO"),
        (["--processes", "4", "--server", "ws://x"], "--processes is for LIBERO"),
        (["--base", "there", "model"], "--base is for LIBERO: add --sim libero"),
        (["--sim", "libero", "--suite", "libero_10"], "give either MODEL or --server URL"),
        (["--sim", "libero", "--suite", "libero_10", "model", "--server", "ws://x"], "give either MODEL or --server"),
        (["--sim", "libero", "--server", "ws://x"], "needs --suite"),
        (["--sim", "libero", "model"], "needs --suite"),
        (["--sim", "libero", "--suite", "libero_10", "--server", "ws://x", "--real-time"], "leave out --real-time"),
        (["--sim", "libero", "--suite", "libero_10", "model", "--latency-ms", "20"], "leave out --latency-ms"),
        (["--sim", "libero", "--suite", "libero_10", "model", "--plain-euler"], "leave out --plain-euler"),
        (["--sim", "libero", "--suite", "libero_10", "model", "--data", "there"], "leave out --data"),
        (["--sim", "libero", "--suite", "libero_10", "model", "--random"], "leave out --random"),
        (["--sim", "libero", "--suite", "libero_10", "--server", "ws://x", "--nfe", "1v/1a"], "leave out --nfe"),
        (["--sim", "libero", "--suite", "libero_10", "--server", "ws://x", "--rollout", "graphed"], "out --rollout"),
        (["--sim", "libero", "--suite", "a", "--server", "ws://x", "--convention", "mine"], "invalid choice"),
    ],
)
def test_what_does_not_go_together_is_refused(capsys, arguments, fault):
    with pytest.raises(SystemExit):
        main(["evaluate", *arguments])
    assert fault in capsys.readouterr().err


@needs_libero
def test_a_model_of_the_released_layout_is_driven_end_to_end(tmp_path, capsys):
    """Random weights, one task, two episodes of two chunks: served, one after another, and by one command, both at
    once."""
    pytest.importorskip("websockets")
    skip_without_rendering()
    from tiny_released import save_released

    from flashwam.serve.model import load_served
    from flashwam.serve.options import ServerOptions
    from flashwam.serve.server import serving
    from flashwam.sim.libero import suite_tasks

    prompt = suite_tasks("libero_object")[0].prompt
    folder = save_released(tmp_path / "released", [prompt, ""])
    model = load_served(folder, nfe="1v/1a", preset="libero", dtype="float32")
    with serving(model, ServerOptions(port=0)) as server:
        options = [
            "--sim",
            "libero",
            "--suite",
            "libero_object",
            "--tasks",
            "0",
            "--episodes",
            "2",
            "--max-steps",
            "14",
        ]
        options += ["--shading", "plain", "--json", "-"]
        assert main(["evaluate", "--server", server.url, *options, "--out", str(tmp_path / "out")]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    loading = ["--nfe", "1v/1a", "--dtype", "float32", "--processes", "2"]
    assert main(["evaluate", str(folder), *options, *loading]) == 0
    (both,) = json.loads(capsys.readouterr().out)
    assert both["tasks"] == result["tasks"]
    assert (result["overall"]["episodes"], result["overall"]["steps"]) == (2, 14.0)
    assert list(result["simulator"]["instructions"].values()) == [prompt]
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
