# SPDX-License-Identifier: Apache-2.0
"""A LingBot-VA of the released layout with random weights, small enough for a test."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

from flashwam.wam.lingbot_va import WanTransformer3DModel
from flashwam.wam.lingbot_va.prompts import PromptEncoder
from flashwam.wam.lingbot_va.vae import WAN22_CONFIG
from flashwam.wam.prompts import TEXT_CACHE

__all__ = ["save_released"]


def save_released(folder: Path, prompts: Sequence[str]) -> Path:
    """Writes transformer, autoencoder and embedded prompts; returns the folder."""
    torch.manual_seed(4)
    network = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=20, text_dim=12, freq_dim=16, ffn_dim=64, num_layers=1
    )
    network.bfloat16().save_pretrained(folder / "transformer")
    small = {**WAN22_CONFIG, "base_dim": 2, "decoder_base_dim": 2, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
    AutoencoderKLWan(**small).bfloat16().save_pretrained(folder / "vae")
    (folder / TEXT_CACHE).mkdir()
    (folder / TEXT_CACHE / "encoder.json").write_text(json.dumps({"fingerprint": "elsewhere"}))
    for prompt in prompts:
        embedding = torch.randn(7, 12, dtype=torch.bfloat16)
        save_file({"embedding": embedding}, PromptEncoder(folder / TEXT_CACHE).path(prompt))
    return folder
