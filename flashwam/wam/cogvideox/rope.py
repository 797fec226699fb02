# SPDX-License-Identifier: Apache-2.0
"""Rotary tables for video tokens followed by action tokens, which are not rotated."""

from functools import cache

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

__all__ = ["rotary_table"]


# Without a limit: recordings read the tables, of which a model has a few.
@cache
def rotary_table(
    head_dim: int,
    grid: tuple[int, int, int],
    *,
    unrotated: int = 0,
    base: tuple[int, int] | None = None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [F h w + unrotated, head_dim], float32.

    Args:
        head_dim: A multiple of 16.
        grid: Frames F, patch rows h and columns w.
        unrotated: Tokens at the end with the identity rotation.
        base: Patch rows and columns over which positions are stretched; None for integers.
        device: Where the tables go.
    """
    frames, rows, columns = grid
    crops = ((0, 0), (rows, columns))
    if base is not None:
        # Brings the text encoders' package with it, which takes seconds and is needed for nothing else.
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        crops = get_resize_crop_region_for_grid((rows, columns), base[1], base[0])
    # A cached tensor made in inference mode could never take part in a gradient.
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        cos, sin = get_3d_rotary_pos_embed(
            embed_dim=head_dim,
            crops_coords=crops,
            grid_size=(rows, columns),
            temporal_size=frames,
            device=torch.device("cpu"),
        )
        cos = torch.cat([cos, cos.new_ones(unrotated, head_dim)])
        sin = torch.cat([sin, sin.new_zeros(unrotated, head_dim)])
        return cos.to(device), sin.to(device)
