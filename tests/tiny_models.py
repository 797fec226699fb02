# SPDX-License-Identifier: Apache-2.0
"""Models of random weights that run in milliseconds, one of each family, and a frame codec that goes with them."""

from typing import Any

import torch

from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.codec import Codec
from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.lingbot_va import LingBotVA

__all__ = ["TINY", "tiny_codec", "tiny_joint_wam", "tiny_wam"]

TINY = {
    "latent_size": (8, 8),
    "chunk_frames": 2,
    "actions_per_frame": 4,
    "window_chunks": 2,
    "patch_size": (1, 4, 4),
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "in_channels": 3,
    "out_channels": 3,
    "action_dim": 4,
    "text_dim": 32,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 1,
}
"""Chunks of 2 frames, 4 actions a frame, pictures of 64 pixels."""


def tiny_wam(*, seed: int = 0, **changes: Any) -> LingBotVA:
    """`LingBotVA.create` of TINY with some keywords changed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LingBotVA.create(**{**TINY, **changes})


def tiny_joint_wam(*, seed: int = 0) -> CogVideoX:
    """Draws three frames and their actions together with the observed one, and acts out two of them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CogVideoX.create(
            latent_size=(8, 8),
            chunk_frames=4,
            actions_per_frame=4,
            action_dim=4,
            execute_frames=2,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            out_channels=3,
            patch_size=4,
            time_embed_dim=8,
            text_embed_dim=32,
            use_rotary_positional_embeddings=True,
        )


def tiny_codec(*, seed: int = 0, **norm: tuple[float, ...]) -> Codec:
    """An untrained autoencoder of 64 pixels; controls are normalised by q01 and q99, by default [-1, 1]."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        autoencoder = FrameAutoencoder(latent_channels=TINY["in_channels"], width=16).eval()
    bounds = {"q01": (-1.0,) * TINY["action_dim"], "q99": (1.0,) * TINY["action_dim"], **norm}
    return Codec(autoencoder=autoencoder, actions=ActionNorm(**bounds, used=tuple(range(TINY["action_dim"]))))
