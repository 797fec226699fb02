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

__all__ = ["RELEASED", "SHORT", "save_released"]

RELEASED = {
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 1,
}
"""The transformer's size."""
SHORT = {
    "steps": 2,
    "batch_size": 2,
    "accumulation": 1,
    "warmup_steps": 0,
    "precision": "no",
    "strategy": "single",
    "compile": False,
}
"""Of a training: what several GPUs and days would be for."""


def save_released(
    folder: Path,
    prompts: Sequence[str],
    *,
    layers: int = 1,
    width: int = 2,
    tokens: int = 7,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Writes a transformer in bfloat16, an autoencoder and prompts that were embedded elsewhere; returns the folder.

    Args:
        folder: Of the checkpoint.
        prompts: With the empty one.
        layers: Of the transformer.
        width: Of the autoencoder.
        tokens: Of a prompt.
        dtype: Of autoencoder and prompts.
    """
    torch.manual_seed(4)
    WanTransformer3DModel(**RELEASED | {"num_layers": layers}).bfloat16().save_pretrained(folder / "transformer")
    small = {**WAN22_CONFIG, "base_dim": width, "decoder_base_dim": width, "num_res_blocks": 1}
    autoencoder = AutoencoderKLWan(**small | {"dim_mult": [1, 1, 1, 1]})
    torch.nn.Module.to(autoencoder, dtype).save_pretrained(folder / "vae")
    (folder / TEXT_CACHE).mkdir()
    (folder / TEXT_CACHE / "encoder.json").write_text(json.dumps({"fingerprint": "elsewhere"}))
    for prompt in prompts:
        embedding = torch.randn(tokens, RELEASED["text_dim"], dtype=dtype)
        save_file({"embedding": embedding}, PromptEncoder(folder / TEXT_CACHE).path(prompt))
    return folder
