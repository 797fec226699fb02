# SPDX-License-Identifier: Apache-2.0
"""The cross table notes whose video and actions it crossed, so that no other comparison takes it for its own."""

import json
from types import SimpleNamespace

import torch
from tiny_models import save_tiny_student

from flashwam.evaluation import cross
from flashwam.evaluation.policy import load_policy
from flashwam.run.folder import INFO_FILE


def test_its_models_are_noted(tmp_path, monkeypatch):
    windows = SimpleNamespace(episodes=[0, 1], null_text=None, first_windows=lambda chosen: chosen)
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
