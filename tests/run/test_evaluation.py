# SPDX-License-Identifier: Apache-2.0
"""An evaluation as a file: what was written before is read, and what is wrong is one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flashwam.report.study import study_evaluations
from flashwam.run.evaluation import (
    Asked,
    Evaluation,
    TaskNumbers,
    measure_once,
    read_evaluation,
    read_recordings,
    read_run,
)
from flashwam.run.folder import RunFolder
from flashwam.run.recordings import OnRecordings, RecordingNumbers

RESULTS = Path(__file__).resolve().parents[2] / "analysis" / "results"
REACH = TaskNumbers(episodes=4, success=3, commitment=0.5, multimodal=True, outcomes=(1, 1, 0, 1), motion=(0.5, None))
ASKED = Asked(tasks=("reach",), episodes=4)


def made(**changes) -> Evaluation:
    told = {"run": "flash", "nfe": {"video": 1, "action": 2}, "tasks": {"reach": REACH}, "overall": REACH, "seed": 3}
    return Evaluation(**{**told, "asked": ASKED, "kind": "student", **changes})


@pytest.mark.parametrize("study", ["full", "students", "cogvideox_students"])
def test_the_committed_evaluations_are_written_as_they_were_read(study):
    told = list(study_evaluations(RESULTS / study))
    assert told
    for file, content in told:
        written = Evaluation.from_json(content, file).to_json()
        assert {key: written[key] for key in content} == content
        # What an older version did not say is null.
        assert all(written[key] is None for key in written.keys() - content.keys())


def test_what_is_written_is_read(tmp_path):
    evaluation = made(open_loop={"error": float("nan")}, latency={"chunk_ms": 3.5}, more={"server": {"url": "ws://"}})
    evaluation.write(tmp_path / "run" / "evaluations" / "a.json")
    (found,) = read_run(tmp_path / "run")
    assert (found.folder, found.file.name, found.chunk_ms) == (tmp_path / "run", "a.json", 3.5)
    assert found.tasks == {"reach": REACH}
    assert json.dumps(found.to_json()) == json.dumps(evaluation.to_json())


def test_what_was_measured_on_recordings_lies_apart(tmp_path):
    numbers = RecordingNumbers(
        held_out=True,
        windows=2,
        episodes=1,
        draws=3,
        names=("x", "gripper"),
        units=("mm", ""),
        by_control={"error_teacher": (1.5, float("nan"))},
        measures={"split": 0.25},
        over_chunk=(0.1, 0.2),
    )
    asked = Asked(tasks=(), episodes=0, closed_loop=False, recordings=OnRecordings(windows=2, draws=3, data="mine"))
    run = RunFolder(tmp_path / "run")
    evaluation = made(tasks={}, overall=None, asked=asked, recordings=numbers)
    evaluation.write(run.recordings / "a.json")
    (found,) = read_recordings(run.path)
    assert json.dumps(found.to_json()) == json.dumps(evaluation.to_json())
    assert (found.folder, found.asked) == (run.path, asked)
    with pytest.raises(FileNotFoundError, match="neither"):
        read_run(run.path)
    with pytest.raises(ValueError, match="draws must be at least 1; got 0"):
        OnRecordings(windows=1, draws=0)


def test_an_old_file_says_less():
    told = {
        "run": "teacher_small",
        "nfe": {"video": 10, "action": 10},
        "tasks": {"reach": {"episodes": 2, "success": 1}},
    }
    found = Evaluation.from_json(told, "a.json")
    assert (found.kind, found.setting, found.label) == ("teacher", "10v/10a", "teacher_small 10v/10a")
    assert (found.step, found.open_loop, found.overall, found.sampler) == (None, None, None, "own")
    assert Evaluation.from_json({**told, "run": "flash", "latency": None}, "a.json").kind == "student"


def test_what_an_evaluation_does_not_know_is_kept():
    told = {**made().to_json(), "cache": 6}
    assert Evaluation.from_json(told, "a.json").to_json() == told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": None}, r"a\.json is not an evaluation: it lacks \['tasks'\]"),
        ({"tasks": [1]}, r"a\.json: tasks must be a mapping; got \[1\]"),
        ({"nfe": {"video": "1"}}, r"a\.json: nfe must be a mapping, each a whole number; got"),
        ({"step": 1.5}, r"a\.json: step must be a whole number or null; got 1\.5"),
        ({"latency": {"chunk_ms": "3"}}, r"a\.json: latency must be a mapping, each a finite number"),
        ({"latency": {"chunk_ms": float("nan")}}, r"a\.json: latency must be a mapping, each a finite number; got"),
        ({"stages": ["video"]}, r"a\.json: stages must be a list"),
        ({"kind": "expert"}, r"a\.json: kind must be one of student, teacher, baseline; got 'expert'"),
        ({"tasks": {"reach": {"episodes": 4}}}, r"a\.json: tasks\.reach: .*missing fields \['success'\]"),
        ({"tasks": {"reach": {"episodes": 4, "success": 5}}}, r"a\.json: tasks\.reach: success must be from 0 to .* 4"),
        ({"overall": {"episodes": True, "success": 1}}, r"a\.json: overall: episodes must be a whole number"),
        ({"asked": {"tasks": "reach", "episodes": 4}}, r"a\.json: asked: tasks must be a list of a text"),
    ],
)
def test_a_value_of_another_type_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Evaluation.from_json({**made().to_json(), **changes}, "a.json")


def test_a_measurement_is_made_once(tmp_path):
    path, calls = tmp_path / "evaluations" / "a.json", []

    def measure():
        calls.append(1)
        return made()

    first, second = (measure_once(path, ASKED, measure) for _ in range(2))
    assert first == second == read_evaluation(path)
    assert len(calls) == 1
    with pytest.raises(ValueError, match=r"under other settings \(episodes: 4 then, 5 now\); give another out= folder"):
        measure_once(path, Asked(tasks=("reach",), episodes=5), measure)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        measure_once(path, ASKED, measure)
    assert path.read_text() == "{"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"recordings": OnRecordings(windows=4, draws=2)}, "draws: 8 then, 2 now"),
        ({"recordings": OnRecordings(windows=4, draws=8, data="x")}, "recordings: the model's own then, x now"),
        ({"recordings": None, "tasks": ("a", "b")}, "tasks: none then, a, b now; windows: 4 then, none now; .*"),
        ({"settings": {"dtype": "float32"}}, "dtype: 'own' then, 'float32' now"),
        ({"settings": {"windows": "b" * 64}}, "windows: not the same as then"),
        ({"settings": {"device": "cuda", "teacher": "c" * 64}}, "device: 'cpu' then, 'cuda' now; teacher: not .*"),
    ],
)
def test_what_differs_from_what_was_measured_is_said_in_words_and_nothing_else(tmp_path, changes, told):
    first = Asked(
        tasks=(),
        episodes=0,
        closed_loop=False,
        recordings=OnRecordings(windows=4, draws=8),
        settings={"model": "a" * 64, "dtype": "own", "device": "cpu", "windows": "a" * 64, "teacher": "a" * 64},
    )
    path = tmp_path / "a.json"
    measure_once(path, first, lambda: made(asked=first))
    with pytest.raises(ValueError, match=rf"holds a measurement under other settings \({told}\); give another out="):
        measure_once(path, replace(first, **changes), made)
