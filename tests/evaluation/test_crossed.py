# SPDX-License-Identifier: Apache-2.0
"""The cross table notes whose video and actions it crossed, so that no other comparison takes it for its own."""

import json
from types import SimpleNamespace

import numpy as np
import torch
from tiny_models import save_tiny_student

from flashwam.evaluation import cross
from flashwam.evaluation.policy import load_policy
from flashwam.run.folder import INFO_FILE


def test_its_models_are_noted(tmp_path, monkeypatch):
    episodes = torch.zeros(2, 6, dtype=torch.long)
    windows = SimpleNamespace(
        episodes=episodes, tasks=["reach-wall"], null_text=None, first_windows=lambda chosen: chosen
    )
    drawn = {"video": torch.zeros(2, 3, 2, 8, 8), "action": torch.zeros(2, 4, 2, 4, 1)}
    monkeypatch.setattr(cross, "EpisodeDataset", lambda *_, **__: windows)
    monkeypatch.setattr(cross, "to_batch", lambda *_: None)
    monkeypatch.setattr(cross, "chunk_draws", lambda *_, **__: [drawn])
    sources = {}
    for name, steps in (("pairs", 4), ("teacher", 9)):
        folder = save_tiny_student(tmp_path / "runs" / name / "student")
        info = json.loads((folder / INFO_FILE).read_text())
        (folder / INFO_FILE).write_text(json.dumps({**info, "name": name, "steps": steps}))
        sources[f"{name} 1v/1a"] = (load_policy(folder), "1v/1a")
    out = tmp_path / "runs" / "comparison"
    made = cross.cross_table(sources, out=out, draws=1)
    written = json.loads((out / "cross.json").read_text())
    assert written.pop("models") == {
        "pairs 1v/1a": {"run": "../pairs", "step": 4},
        "teacher 1v/1a": {"run": "../teacher", "step": 9},
    }
    assert written == made


def test_a_way_is_told_as_the_closed_loop_tells_it():
    """By the first eight controls, along the task's own axis, by its own threshold."""
    controls = np.zeros((4, 12, 4))
    controls[:, :8, 0] = np.array([0.45, 0.45, -0.6, -0.6])[:, None]
    controls[:, 8:, 0] = -controls[:, :8, 0].mean(1, keepdims=True)
    tasks = np.array(["faucet-turn", "reach-wall", "reach-wall", "faucet-turn"])
    assert cross._ways(controls, tasks).tolist() == [1, -1, 0, 0]
