# SPDX-License-Identifier: Apache-2.0
"""S-VAM by recipe on recorded episodes, both stages, at the size of a released checkpoint's layout in small."""

import json

import lerobot_sets
import pytest
from tiny_released import RELEASED, save_released

from flashwam import pipeline
from flashwam.evaluation.recordings import evaluate_recordings
from flashwam.foresight.policy import ForesightPolicy
from flashwam.recipe.load import load_recipe
from flashwam.student import load_wam

VISION = {
    "model_type": "dinov2_with_registers",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 28,
}

DEPTH = {
    "model_type": "depth_anything",
    "backbone_config": {
        "model_type": "dinov2",
        "hidden_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 28,
        "out_features": ["stage1"],
        "reshape_hidden_states": False,
    },
    "neck_hidden_sizes": [8],
    "reassemble_hidden_size": 12,
    "fusion_hidden_size": 8,
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A teacher in the released layout, and LIBERO's segments: two cameras of 64 x 64 pixels."""
    monkeypatch.setenv("FLASHWAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lerobot_sets, "CHANNELS", 48)
    monkeypatch.setattr(lerobot_sets, "TEXT", (5, 12))
    monkeypatch.setitem(lerobot_sets.SIZES, "libero", [(4, 4), (4, 4)])
    save_released(tmp_path / "base", ("part 0", ""), tokens=5)
    episodes = [(30, [(0, 30, 0, 4)]) for _ in range(4)]
    lerobot_sets.write_set(tmp_path / "data", "libero", {"libero-long-lerobot": episodes})
    return tmp_path


def recipe(place, name, **changes):
    values = {
        "data.root": place / "data",
        "data.camera_size": "[64,64]",
        "data.window_frames": 4,
        "data.held_out_every": 4,
        "wam.pretrained": place / "base",
        "wam.config.latent_size": "[4,8]",
        "wam.config.attention": "sdpa",
        **{f"wam.config.{key}": value for key, value in RELEASED.items()},
        "distill.options.pictures": place / "base",
        "distill.options.pool": 2,
        "distill.options.rollout_batch": 2,
        "distill.options.teacher_streams": "{video: {shift: 5.0, teacher_steps: 2}, action: {teacher_steps: 2}}",
        "distill.options.providers.semantic": "{name: vision, size: 28, model: " + json.dumps(VISION) + "}",
        "distill.options.providers.geometric": "{name: vision, size: 28, model: " + json.dumps(DEPTH) + "}",
        "distill.options.policy.blocks": "[0]",
        "distill.options.policy.grid": "[2,4]",
        "distill.options.policy.text_width": RELEASED["text_dim"],
        "distill.options.policy.decoupler": "{width: 16, blocks: 1, heads: 2, dropout: 0.0}",
        "distill.options.policy.resampler": "{width: 8, queries: 2, depth: 1, heads: 2, head_dim: 4}",
        "distill.options.policy.expert": "{width: 16, encoder: 1, decoder: 1, heads: 2, dropout: 0.0}",
        "distill.steps": 2,
        "distill.batch_size": 2,
        "distill.precision": "no",
        "distill.strategy": "single",
        **changes,
    }
    return load_recipe(name, [f"{key}={value}" for key, value in values.items()])


def test_both_stages_learn_from_recordings_and_act_on_held_out_ones(place):
    judged = {"distill.judge": "{every: 2, windows: 1}"}
    first = pipeline.distill(recipe(place, "svam/libero/decouplers", **judged), run_dir=place / "first")
    lines = [json.loads(line) for line in (place / "first" / "metrics.jsonl").read_text().splitlines()]
    errors = [line["judged/semantic_error_teacher"] for line in lines if "judged/semantic_error_teacher" in line]
    assert len(errors) == 2
    assert all(error > 0 for error in errors)
    # The teacher's draws and what the vision model sees in them are kept apart from the data, which are only read.
    assert list((place / "cache" / "rollouts").rglob("target_*/*.safetensors"))
    assert {path.name for path in (place / "data").iterdir()} == {"libero-long-lerobot", "empty_emb.pt"}
    # Each camera is seen by itself: two of 2 x 2 places make up the grid.
    assert load_wam(first)[0].providers["semantic"].cameras == 2
    second = pipeline.distill(recipe(place, "svam/libero/policy", **{"distill.init": first}), run_dir=place / "second")
    assert isinstance(load_wam(second)[0], ForesightPolicy)
    (result,) = evaluate_recordings(second, nfe=("1v/2a",), windows=1, draws=2, out=place / "judged")
    assert (result["recordings"]["held_out"], result["recordings"]["episodes"]) == (True, 1)
    assert result["recordings"]["measures"]["all_error_recorded"] > 0
