# SPDX-License-Identifier: Apache-2.0
"""The sizes that benchmarks run at, and models of them with random weights."""

from typing import Any

import torch

from flashwam.wam.lingbot_va import LingBotVA

__all__ = ["LIBERO", "ROBOTWIN", "SIZES", "STREAMS", "TEXT_TOKENS", "random_wam"]

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


def random_wam(
    size: str, shapes: dict[str, Any], *, device: torch.device, dtype: torch.dtype, **options: Any
) -> LingBotVA:
    """A LingBot-VA with random weights, made in its dtype and on its device, so that no copy is needed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LingBotVA.create(**{**shapes, **SIZES[size], **options})
    finally:
        torch.set_default_dtype(before)
