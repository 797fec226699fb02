# SPDX-License-Identifier: Apache-2.0
"""From a released checkpoint and a released data set to a served student, in their own layouts at a tiny size."""

import json
from pathlib import Path

import lerobot_sets
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from flashwam import pipeline
from flashwam.config import load_recipe
from flashwam.info import describe
from flashwam.serve.policy import PolicySession, load_served
from flashwam.wam.lingbot_va import WanTransformer3DModel
from flashwam.wam.lingbot_va.prompts import PromptEncoder
from flashwam.wam.lingbot_va.vae import WAN22_CONFIG
from flashwam.wam.prompts import TEXT_CACHE

NETWORK = {
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 1,
}
PROMPT = "open the drawer"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A released checkpoint in bfloat16, with its prompts embedded elsewhere."""
    folder = tmp_path / "base"
    torch.manual_seed(4)
    WanTransformer3DModel(**NETWORK).bfloat16().save_pretrained(folder / "transformer")
    small = {**WAN22_CONFIG, "base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
    AutoencoderKLWan(**small).save_pretrained(folder / "vae")
    (folder / TEXT_CACHE).mkdir()
    (folder / TEXT_CACHE / "encoder.json").write_text(json.dumps({"fingerprint": "elsewhere"}))
    for prompt in (PROMPT, ""):
        save_file({"embedding": torch.randn(5, 12)}, PromptEncoder(folder / TEXT_CACHE).path(prompt))
    return folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RoboTwin segments with latents of 48 channels: a head camera of 64 x 96 pixels and two of half its size."""
    monkeypatch.setattr(lerobot_sets, "CHANNELS", 48)
    monkeypatch.setattr(lerobot_sets, "TEXT", (5, 12))
    lerobot_sets.write_set(tmp_path / "set", "robotwin", {"clean/a": [(130, [(0, 130, 0, 4)]) for _ in range(3)]})
    return tmp_path / "set"


def test_released_weights_and_data_become_a_served_student(base: Path, data: Path, tmp_path: Path) -> None:
    settings = {
        "data.root": data,
        "data.tasks": "[clean]",
        "data.window_frames": 4,
        "data.camera_size": "[64,96]",
        "wam.pretrained": base,
        "wam.config.latent_size": "[6,6]",
        "wam.config.attention": "sdpa",
        "distill.steps": 2,
        "distill.batch_size": 2,
        "distill.accumulation": 1,
        "distill.precision": "no",
        "distill.strategy": "single",
        **{f"wam.config.{key}": value for key, value in NETWORK.items()},
    }
    recipe = load_recipe("robotwin/flash_wam", [f"{key}={value}" for key, value in settings.items()])
    student = pipeline.distill(recipe, run_dir=tmp_path / "run")

    facts = describe(student)
    assert (facts["kind"], facts["dtype"], facts["teacher"]) == ("student", "F32", str(base))
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(base / name), load_file(student / name)
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    assert not torch.equal(before["blocks.0.attn1.to_q.weight"].float(), after["blocks.0.attn1.to_q.weight"])
    assert "distilled from" in (student / "README.md").read_text()

    model = load_served(tmp_path / "run")
    assert model.metadata["cameras"] == list(lerobot_sets.ROBOTWIN)
    assert model.metadata["nfe"] == {"video": 1, "action": 1}
    session, rng = PolicySession(model), np.random.default_rng(0)
    session.reset(PROMPT, seed=1)

    def seen(count: int) -> list[dict[str, np.ndarray]]:
        return [
            {key: rng.integers(0, 256, (64, 96, 3), np.uint8) for key in lerobot_sets.ROBOTWIN} for _ in range(count)
        ]

    first = seen(1)[0]
    for count in (4, 8):
        controls = session.infer(first)
        assert (controls.shape, controls.dtype) == ((16, 2, 16), np.float32)
        assert np.isfinite(controls).all()
        session.refresh(seen(count), controls)
