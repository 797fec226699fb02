# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's encoders for converting whole data sets: clips to latents, prompts to embeddings.

Letters: C latent channels, h, w latent size, L text tokens, D text width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashwam.system.paths import user_path
from flashwam.wam.cogvideox.text import T5Prompts
from flashwam.wam.cogvideox.vae import PICTURES_PER_FRAME, UNIT, CogVideoXVae
from flashwam.wam.weights import digest

__all__ = ["cogvideox_encoders"]


def cogvideox_encoders(
    checkpoint: str | Path,
    *,
    text_cache: str | Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Gives what a converter of data needs of a released checkpoint, as keywords of `flashwam.data.encoders.Encoders`.

    Args:
        checkpoint: Holds ``vae/``, ``text_encoder/`` and ``tokenizer/``; the last two only for prompts that are new.
        text_cache: Folder of embedded prompts, read and written; see `PromptCache` for None.
        dtype: Of the autoencoder and the text encoder.
        device: Of both.

    Returns:
        "video": pixels [3, 1 + 8 k, rows, columns] in [-1, 1] -> latents [C, 1 + 2 k, h, w], float32 on the CPU.
        "text": prompt -> [L, D]. "pictures_per_frame", "unit" and "clips": how clips are cut. "name": tells these
        weights from others. "prepare": embeds many prompts and frees the text encoder.
    """
    checkpoint = user_path(checkpoint)
    vae = CogVideoXVae.from_pretrained(checkpoint / "vae", dtype=dtype, device=device)
    prompts = T5Prompts(text_cache, checkpoint=checkpoint, dtype=dtype, device=device)

    def video(pixels: Tensor) -> Tensor:
        return vae.encode(pixels[None])[0].cpu()

    weights = digest(checkpoint / "vae", "diffusion_pytorch_model.safetensors")
    return {
        "video": video,
        "text": prompts.encode,
        "pictures_per_frame": PICTURES_PER_FRAME,
        "unit": UNIT,
        "clips": True,
        "name": f"CogVideoX autoencoder {weights[:16]} in {dtype}",
        "prepare": prompts.prepare,
    }
