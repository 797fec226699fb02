# SPDX-License-Identifier: Apache-2.0
"""The families' real networks at a size that two processes train in seconds."""

import torch
from waves import make as lingbot_model

from flashwam.wam.cogvideox import CogVideoX


def cogvideox_model(seed: int) -> CogVideoX:
    """Of the size of the waves, with a learned table of positions; action head and table are not left at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CogVideoX.create(
            latent_size=(4, 4),
            chunk_frames=4,
            actions_per_frame=2,
            action_dim=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            out_channels=3,
            time_embed_dim=8,
            text_embed_dim=8,
            max_text_seq_length=2,
            use_rotary_positional_embeddings=True,
            use_learned_positional_embeddings=True,
        )
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value) * 0.1)
    return model


MODELS = {"lingbot": lingbot_model, "cogvideox": cogvideox_model}
