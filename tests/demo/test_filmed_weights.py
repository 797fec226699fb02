# SPDX-License-Identifier: Apache-2.0
"""The film shows the weights, in the numbers, that were measured."""

import json

import numpy as np
import pytest
from tiny_models import save_tiny_student

from flashwam.demo import filming
from flashwam.demo.film import Take
from flashwam.run.folder import INFO_FILE


def play(driver, task, episode, *, draw_ms, size):
    pictures = (np.zeros((32, 32, 3), np.uint8),) * 2
    return Take(times=(0.0, draw_ms), pictures=pictures, drawing=(True, False), success=True)


def model(folder, *, steps, joint=False, **told):
    """A saved model that tells of so many steps."""
    save_tiny_student(folder, joint=joint)
    info = json.loads((folder / INFO_FILE).read_text())
    (folder / INFO_FILE).write_text(json.dumps({**info, "steps": steps, **told}))


def measured(run, name, *, steps, step, **told):
    (run / "evaluations").mkdir(parents=True, exist_ok=True)
    nfe = {"video": steps, "action": steps}
    told |= {"tasks": {"reach-wall": {"episodes": 4, "success": 2}}, "latency": {"chunk_ms": 9.0}}
    content = {"run": name, "nfe": nfe, "step": step, **told}
    (run / "evaluations" / f"step{step}_{steps}.json").write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    loaded = []

    def load(folder):
        loaded.append(filming_load(folder))
        return loaded[-1]

    filming_load = filming.load_policy
    monkeypatch.setattr(filming, "load_policy", load)
    monkeypatch.setattr(filming, "play", play)
    teacher, student = tmp_path / "teacher", tmp_path / "pairs"
    model(teacher / "teacher", steps=9, kind="teacher", name="teacher")
    measured(teacher, "teacher", steps=10, step=9)
    model(student / "student", steps=1000, name="pairs")
    return [teacher, student], loaded


@pytest.mark.parametrize(
    ("step", "where"), [(1000, "student"), (400, "best"), (200, "steps/step_200"), (None, "student")]
)
def test_the_weights_of_the_measured_step_are_filmed(runs, tmp_path, step, where):
    folders, loaded = runs
    model(folders[1] / "best", steps=400, name="pairs")
    model(folders[1] / "steps" / "step_200", steps=200, name="pairs")
    measured(folders[1], "pairs", steps=1, step=step)
    filming.film_best(folders, tmp_path / "out", ["reach-wall"])
    assert [policy.folder for policy in loaded] == [folders[0] / "teacher", folders[1] / where]


def test_weights_that_are_gone_are_not_stood_in_for(runs, tmp_path):
    folders, _ = runs
    measured(folders[1], "pairs", steps=1, step=400)
    with pytest.raises(FileNotFoundError, match=r"pairs 1v/1a was measured at step 400.*has student of step 1000"):
        filming.film_best(folders, tmp_path / "out", ["reach-wall"])
    assert not (tmp_path / "out").exists()


def test_what_was_measured_in_fewer_bits_is_filmed_so(runs, tmp_path):
    folders, loaded = runs
    model(folders[1] / "best", steps=400, joint=True, name="pairs")
    measured(folders[1], "pairs", steps=1, step=400, precision="fp8")
    filming.film_best(folders, tmp_path / "out", ["reach-wall"])
    assert [policy.wam.precision for policy in loaded] == ["own", "fp8"]
