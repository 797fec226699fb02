# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's encoders for converting whole data sets: clips to latents, prompts to embeddings.

Letters: T pictures, C latent channels, F latent frames, h, w latent size, L text tokens, D text width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashwam.system.paths import user_path
from flashwam.wam.lingbot_va.prompts import PromptEncoder
from flashwam.wam.lingbot_va.vae import PICTURES_PER_FRAME, WanVae
from flashwam.wam.weights import digest

__all__ = ["wan_encoders"]


def wan_encoders(
    checkpoint: str | Path,
    *,
    text_cache: str | Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Gives what a converter of data needs of a released checkpoint, as keyword arguments.

    Args:
        checkpoint: Holds ``vae/``, ``text_encoder/`` and ``tokenizer/``; the last two only for prompts that are new.
        text_cache: Folder of embedded prompts, read and written; see `PromptCache` for None.
        dtype: Of the autoencoder and the text encoder.
        device: Of both.

    Returns:
        "video": pixels [3, 1 + 4 k, rows, columns] in [-1, 1] -> normalised latents [C, 1 + k, h, w], float32 on the
        CPU. "text": prompt -> [L, D]. "pictures_per_frame": 4. "name": tells these weights from others. "prepare":
        embeds many prompts and frees the text encoder.
    """
    checkpoint = user_path(checkpoint)
    vae = WanVae.from_pretrained(checkpoint / "vae", dtype=dtype, device=device)
    prompts = PromptEncoder(text_cache, checkpoint=checkpoint, dtype=dtype, device=device)

    def video(pixels: Tensor) -> Tensor:
        return vae.encode(pixels[None])[0].float().cpu()

    weights = digest(checkpoint / "vae", "diffusion_pytorch_model.safetensors")
    return {
        "video": video,
        "text": prompts.encode,
        "pictures_per_frame": PICTURES_PER_FRAME,
        "name": f"Wan autoencoder {weights[:16]} in {dtype}",
        "prepare": prompts.prepare,
    }
