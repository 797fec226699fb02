# SPDX-License-Identifier: Apache-2.0
"""The sizes that benchmarks run at, and models of them with random weights."""

from collections.abc import Callable
from typing import Any

import torch

from flashwam.recipe.load import load_recipe
from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.lingbot_va import LingBotVA

__all__ = ["JOINT_SIZES", "LIBERO", "ROBOTWIN", "SIZES", "STREAMS", "TEXT_TOKENS", "random_joint_wam", "random_wam"]

STREAMS = ("video", "action")
TEXT_TOKENS = 512
ROBOTWIN = {"latent_size": (24, 20), "chunk_frames": 2, "actions_per_frame": 16, "window_chunks": 71}
LIBERO = {"latent_size": (8, 16), "chunk_frames": 4, "actions_per_frame": 4, "window_chunks": 30}
_SMALL = {"attention_head_dim": 32, "text_dim": 64}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        **_SMALL,
        "num_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 128,
        "freq_dim": 16,
        "latent_size": (4, 4),
        "chunk_frames": 2,
        "actions_per_frame": 2,
        "window_chunks": 5,
    },
    "6 x 256": {**_SMALL, "num_layers": 6, "num_attention_heads": 8, "ffn_dim": 1024},
    "8 x 512": {**_SMALL, "num_layers": 8, "num_attention_heads": 16, "ffn_dim": 2048},
    "real": {"text_dim": 4096},
}
"""Settings of the network; "real" is LingBot-VA's own. "tiny" has shapes of its own too: it only shows that a script
runs."""


JOINT_SIZES = ("cogvideox tiny", "cogvideox 2b", "cogvideox 5b")
"""Of the family that draws video and actions together, as VideoVLA's recipes have them; "tiny" shows that a script
runs."""
_JOINT_TINY: dict[str, Any] = {
    "latent_size": (4, 4),
    "chunk_frames": 4,
    "actions_per_frame": 2,
    "action_dim": 7,
    "execute_frames": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 16,
    "max_text_seq_length": 8,
    "use_rotary_positional_embeddings": True,
}


def random_joint_wam(size: str, *, device: torch.device, dtype: torch.dtype, **options: Any) -> CogVideoX:
    """A CogVideoX with random weights, made in its dtype and on its device."""
    settings = _JOINT_TINY
    if size != JOINT_SIZES[0]:
        settings = dict(load_recipe(f"videovla/{size.replace(' ', '_')}").wam.config)
    return _made(lambda: CogVideoX.create(**{**settings, **options}), device, dtype)


def random_wam(
    size: str, shapes: dict[str, Any], *, device: torch.device, dtype: torch.dtype, **options: Any
) -> LingBotVA:
    """A LingBot-VA with random weights, made in its dtype and on its device, so that no copy is needed."""
    return _made(lambda: LingBotVA.create(**{**shapes, **SIZES[size], **options}), device, dtype)


def _made(make: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return make()
    finally:
        torch.set_default_dtype(before)
