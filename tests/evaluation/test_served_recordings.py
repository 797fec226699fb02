# SPDX-License-Identifier: Apache-2.0
"""Served models on raw recordings: shown what was seen, asked for what followed."""

import json
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("websockets")
import raw_sets

from flashwam.cli import main
from flashwam.commands.recording_lines import recording_lines
from flashwam.data.raw_windows import RawWindows
from flashwam.data.segments import NoEpisodesError
from flashwam.evaluation.served_recordings import evaluate_served_recordings
from flashwam.report.recordings import recording_rows
from flashwam.run.evaluation import Evaluation

ROWS = 30


@pytest.fixture
def data(tmp_path, monkeypatch):
    """One episode, whose pictures tell their row."""
    monkeypatch.setattr(raw_sets, "LENGTHS", (ROWS,))
    raw_sets.write_v2(tmp_path / "raw" / "monday")
    return tmp_path / "raw"


class Clairvoyant:
    """A served model that knows the recording by heart: reads the row off the latest picture and goes on from there,
    `off` by some.

    Args:
        url: Its name; "ws://off" is off by half, and another half of draws of odd seeds.
    """

    pictures = 4
    shown: list
    timing: ClassVar = {"infer_ms": 0.25, "prev_total_ms": 9.0}

    def __init__(self, url, token=None):
        self.url = url
        self.metadata = {
            "name": url.removeprefix("ws://"),
            "nfe": {"video": 1, "action": 1},
            "step": 3,
            "kind": "student",
            "controls": 7,
            "chunk_frames": 3,
            "actions_per_frame": 4,
            "keyframes_per_frame": self.pictures,
            "cameras": list(raw_sets.CAMERAS),
            "streams": {"video": {"guidance_scale": 5.0}, "action": {"guidance_scale": 1.0}},
        }
        self.actions = raw_sets.actions(0)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def row(self, observation):
        greys = [observation[camera][40:, 40:].mean() - 20 - 90 * n for n, camera in enumerate(raw_sets.CAMERAS)]
        first, second = (int((grey + 3.5) % 216 // 7) for grey in greys)
        assert first == second
        return first

    def reset(self, prompt, *, seed):
        assert prompt == "fold"
        self.off = 0.0 if self.url != "ws://off" else 0.5 + 0.5 * (seed % 2)
        self.first = True

    def infer(self, observation):
        assert (observation is not None) == self.first
        if self.first:
            self.at = self.begin = self.row(observation)
        frames = 2 if self.first else 3
        rows = self.actions[self.at : self.at + 4 * frames]
        rows = np.pad(rows, ((0, 4 * frames - len(rows)), (0, 0))) + self.off
        reply = rows.reshape(frames, 4, 7).transpose(2, 0, 1).astype(np.float32)
        return np.concatenate([np.full((7, 1, 4), 9.0, np.float32), reply], 1) if self.first else reply

    def refresh(self, observations, state):
        rows = [self.row(observation) for observation in observations]
        stride = 4 // self.pictures
        assert rows == list(range(self.begin + stride, self.begin + 9, stride))
        # What was done, whatever was drawn.
        done = state[:, 1:].transpose(1, 2, 0).reshape(-1, 7)
        np.testing.assert_array_equal(done, self.actions[self.begin : self.begin + 8])
        self.first, self.at = False, self.begin + 8


class OnePicture(Clairvoyant):
    """One whose server does not tell its time."""

    pictures = 1
    timing: ClassVar = {}


@pytest.mark.parametrize("kind", [Clairvoyant, OnePicture])
def test_a_model_that_knows_the_recording_makes_no_error(data, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("flashwam.evaluation.served_recordings.PolicyClient", kind)
    told = {"data": data, "windows": 6, "draws": 2, "out": tmp_path / "out"}
    (result,) = evaluate_served_recordings("ws://knows", **told)
    numbers = result["recordings"]
    assert (numbers["windows"], numbers["episodes"], numbers["draws"]) == (6, 1, 2)
    told_times = {"chunk_ms", "part/server_ms"} if kind.timing else {"chunk_ms"}
    assert set(result["latency"]) == told_times
    assert result["latency"].get("part/server_ms", 0.25) == 0.25
    # Only whoever trained the model knows whether it has seen them.
    assert numbers["held_out"] is None
    (read,) = recording_rows([Evaluation.from_json(result, "the result")])
    assert read.recordings == "6 windows (5 different) of 1 recorded episodes, 2 draws each"
    assert "6 windows (5 different) of 1 recorded episodes" in recording_lines(read.parts[0], read.numbers[0])[0]
    assert numbers["by_control"]["error_recorded"] == [0.0] * 7
    assert "error_teacher" not in numbers["by_control"]
    with np.load(tmp_path / "out" / numbers["trajectories"]) as held:
        # The first chunk of every window is there whole; of the second what was recorded.
        assert held["valid"][:, :8].all()
        assert not held["valid"].all()
    told["out"] = tmp_path / "off"
    (result,) = evaluate_served_recordings("ws://off", **told, teacher="ws://knows")
    numbers = result["recordings"]
    rms = np.sqrt((0.5**2 + 1.0**2) / 2)
    assert numbers["by_control"]["error_teacher"] == pytest.approx([rms] * 7, rel=1e-6)
    assert numbers["by_control"]["error_recorded"] == pytest.approx([rms] * 7, rel=1e-6)
    assert numbers["by_control"]["teacher_spread"] == [0.0] * 7
    with pytest.raises(FileExistsError, match="an earlier measurement"):
        evaluate_served_recordings("ws://off", **told)


def test_controls_that_seldom_or_never_move_are_judged_too(data, tmp_path, monkeypatch):
    """The gripper shuts for the last row, and one joint stands still: a model that has them elsewhere is off."""
    recorded = np.random.default_rng(0).normal(size=(ROWS, 7)).astype(np.float32)
    recorded[:, 5], recorded[:, 6] = 30000.0, -1.0
    recorded[-1, 6] = 1.0
    monkeypatch.setattr("flashwam.data.raw_windows.action_rows", lambda table, key: recorded)

    class Stubborn(Clairvoyant):
        def __init__(self, url, token=None):
            super().__init__(url, token)
            self.actions = recorded.copy()
            if "gripper" in url:
                self.actions[:, 6] = 1.0
            if "joint" in url:
                self.actions[:, 5] += 0.2

        def refresh(self, observations, state):
            self.first, self.at = False, self.begin + 8

    monkeypatch.setattr("flashwam.evaluation.served_recordings.PolicyClient", Stubborn)
    errors = {}
    for name in ("right", "gripper", "joint"):
        told = {"data": data, "windows": 32, "draws": 1, "out": tmp_path / name}
        (result,) = evaluate_served_recordings(f"ws://{name}", **told)
        errors[name] = result["recordings"]["measures"]["all_error_recorded"]
    assert errors["right"] == 0
    # The whole range of the gripper is 2 normalised, nearly everywhere; a fifth of the joint's unit is so too.
    assert errors["gripper"] == pytest.approx(2 / np.sqrt(7), rel=0.1)
    assert errors["joint"] == pytest.approx(2 / np.sqrt(7), rel=0.1)


class Impatient(Clairvoyant):
    """A server's session that another one's work must not keep waiting, as its server ends one that waits."""

    open: ClassVar[list] = []

    def __init__(self, url, token=None):
        super().__init__(url, token)
        self.open.append(url)

    def __exit__(self, *exception):
        self.open.remove(self.url)

    def infer(self, observation):
        assert self.open[-1] == self.url
        self.drawn = getattr(self, "drawn", 0) + 1
        # The student is kept waiting for one chunk, which tells how long the teacher's are.
        assert len(self.open) == 1 or self.drawn == 1
        return super().infer(observation)


class Shorter(Impatient):
    """A server whose teacher draws less at once."""

    count: ClassVar[list] = []

    def infer(self, observation):
        self.count.append(self.url)
        reply = super().infer(observation)
        return reply[:, :2] if self.url == "ws://knows" else reply


def test_a_teacher_s_session_does_not_wait_for_the_student(data, tmp_path, monkeypatch):
    monkeypatch.setattr("flashwam.evaluation.served_recordings.PolicyClient", Impatient)
    told = {"data": data, "windows": 3, "draws": 2, "teacher": "ws://knows", "out": tmp_path}
    (result,) = evaluate_served_recordings("ws://off", **told)
    assert result["recordings"]["by_control"]["error_teacher"][0] > 0


def test_a_teacher_of_other_chunks_is_refused_before_anything_is_drawn_in_earnest(data, tmp_path, monkeypatch):
    monkeypatch.setattr("flashwam.evaluation.served_recordings.PolicyClient", Shorter)
    told = {"data": data, "windows": 3, "draws": 2, "teacher": "ws://knows", "out": tmp_path}
    with pytest.raises(ValueError, match="the teacher's first chunk has 4 controls, the student's 8"):
        evaluate_served_recordings("ws://off", **told)
    assert Shorter.count == ["ws://off", "ws://knows"]


def test_windows_are_the_same_every_time_and_hold_a_chunk(data):
    source, again = (RawWindows(data, cameras=raw_sets.CAMERAS, least=8) for _ in range(2))
    found = [source.window(number) for number in range(20)]
    assert [window.first for window in found] == [again.window(number).first for number in range(20)]
    assert all(len(window.rows) >= 8 and window.first + len(window.rows) == ROWS for window in found)
    assert {window.first for window in found[::4]} == {0}
    assert len({window.first for window in found}) > 8
    with pytest.raises(NoEpisodesError, match="has a segment of 31 rows"):
        RawWindows(data, cameras=raw_sets.CAMERAS, least=31)


def test_a_greeting_that_does_not_say_how_it_looks_is_refused(data, tmp_path, monkeypatch):
    class Silent(Clairvoyant):
        def __init__(self, url, token=None):
            super().__init__(url, token)
            del self.metadata["keyframes_per_frame"]

    monkeypatch.setattr("flashwam.evaluation.served_recordings.PolicyClient", Silent)
    with pytest.raises(ValueError, match="does not say its keyframes_per_frame"):
        evaluate_served_recordings("ws://silent", data=data, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--server", "ws://x", "--data", "raw", "--nfe", "1v/1a"], "--nfe is the server's to choose"),
        (["--server", "ws://x", "--data", "raw", "--dtype", "float32"], "--dtype is the server's to choose"),
        (["--server", "ws://x", "--recordings"], "--server has no recordings of its own: give --data FOLDER"),
        (["runs/a", "--server", "ws://x", "--data", "raw"], "give either MODEL or --server URL"),
        (["--data", "raw"], "give either MODEL or --server URL"),
    ],
)
def test_a_server_chooses_for_itself(words, message, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", *words])
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_command_passes_on_what_is_asked(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flashwam.evaluation.served_recordings.PolicyClient", Clairvoyant)
    words = ["--server", "ws://off", "--teacher", "ws://knows", "--data", str(data), "--windows", "2", "--draws", "2"]
    words += ["--tasks", "monday"]
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words, "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["recordings"]["measures"]["all_error_teacher"] > 0
    assert result["guidance"] == {"video": 5.0}
    assert result["asked"]["recordings"]["tasks"] == ["monday"]
    assert main(["compare", "runs/served/off"]) == 0
    assert "off 1v/1a on raw" in capsys.readouterr().out
    assert main(["evaluate", *words, "--tasks", "tuesday", "--out", "other"]) == 2
    assert "no data set 'tuesday' below" in capsys.readouterr().err
