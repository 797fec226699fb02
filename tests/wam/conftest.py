# SPDX-License-Identifier: Apache-2.0
"""Golden tensors of the original network and a tiny model of ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.lingbot_va import LingBotConfig, LingBotVA, WanTransformer3DModel


@pytest.fixture(scope="session")
def golden(golden_dir: Path) -> dict[str, Any]:
    """Tensors and plain values by path, in one dict."""
    numbers: dict[str, Any] = dict(load_file(golden_dir / "lingbot_va.safetensors"))
    return numbers | json.loads((golden_dir / "lingbot_va.json").read_text())


@pytest.fixture(scope="session")
def golden_full_window(golden_dir: Path) -> dict[str, Any]:
    """The cache's protocol once more, in a cache that is full after two chunks."""
    numbers: dict[str, Any] = dict(load_file(golden_dir / "lingbot_va_full_window.safetensors"))
    return numbers | json.loads((golden_dir / "lingbot_va_full_window.json").read_text())


@pytest.fixture(scope="session")
def golden_wam(golden: dict[str, Any]) -> LingBotVA:
    """The original's tiny network with its weights, loaded strictly; chunks of 2 frames, a cache of 4 blocks."""
    config = {
        key.removeprefix("meta/config/"): value for key, value in golden.items() if key.startswith("meta/config/")
    }
    transformer = WanTransformer3DModel(**config)
    weights = {k.removeprefix("state_dict/"): v for k, v in golden.items() if k.startswith("state_dict/")}
    transformer.load_state_dict(weights, strict=True)
    rollout = LingBotConfig(latent_size=(4, 6), chunk_frames=2, actions_per_frame=4, window_chunks=3)
    return LingBotVA(transformer, rollout)


@pytest.fixture
def make_wam() -> Callable[..., LingBotVA]:
    """Builds a small model whose every parameter is random, so that no term of the network vanishes."""

    def make(**changes: Any) -> LingBotVA:
        options: dict[str, Any] = {
            "latent_size": (4, 4),
            "chunk_frames": 2,
            "actions_per_frame": 4,
            "window_chunks": 5,
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 20,
            "in_channels": 6,
            "out_channels": 6,
            "action_dim": 5,
            "text_dim": 12,
            "freq_dim": 16,
            "ffn_dim": 64,
            "num_layers": 3,
        }
        wam = LingBotVA.create(**(options | changes))
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, value in wam.named_parameters():
                value.copy_(
                    torch.randn(value.shape, generator=generator) * (0.3 if value.ndim < 2 else value.shape[-1] ** -0.5)
                )
                if "norm" in name and name.endswith("weight"):
                    value.add_(1.0)
        return wam

    return make


@pytest.fixture
def draw() -> Callable[..., dict[str, Tensor]]:
    """Draws stream tensors of a model: {stream: [batch, C, frames, H, W]}."""

    def tensors(wam: LingBotVA, batch: int, frames: int, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            stream: torch.randn(batch, channels, frames, *size, generator=generator)
            for stream, (channels, *size) in wam.shapes.items()
        }

    return tensors


@pytest.fixture
def make_cogvideox() -> Callable[..., CogVideoX]:
    """Builds a small model of the second family whose every parameter is random."""

    def make(**changes: Any) -> CogVideoX:
        options: dict[str, Any] = {
            "latent_size": (4, 6),
            "chunk_frames": 3,
            "actions_per_frame": 2,
            "action_dim": 5,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": 12,
            "num_layers": 2,
            "max_text_seq_length": 6,
            "use_rotary_positional_embeddings": True,
        }
        return randomised(CogVideoX.create(**(options | changes)))

    return make


def randomised(module: Any) -> Any:
    """The same module with every parameter drawn anew, large enough for every term of the network to be seen."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, value in module.named_parameters():
            scale = 0.3 if value.ndim < 2 else value[0].numel() ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
            if "norm" in name and name.endswith("norm.weight"):
                value.add_(1.0)
    return module
