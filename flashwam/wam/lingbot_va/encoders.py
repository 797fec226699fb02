# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's own autoencoder and text encoder, for converting raw episodes to the latents it is trained on."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flashwam.data.encoders import Encoders
from flashwam.wam.lingbot_va.text import LENGTH, TEXT_CACHE, PromptEncoder
from flashwam.wam.lingbot_va.vae import PICTURES_PER_FRAME, WanVae
from flashwam.wam.weights import read_header, weight_files

__all__ = ["lingbot_encoders"]

_EDGE = 2**20


def lingbot_encoders(
    checkpoint: str | Path,
    *,
    device: torch.device | str | None = None,
    text_cache: str | Path | None = None,
    length: int = LENGTH,
) -> Encoders:
    """Encodes as the closed loop does; prompts are embedded once, by one process, and kept on disk.

    Args:
        checkpoint: Holds `vae/` and, unless every prompt is cached, `text_encoder/` and `tokenizer/`.
        device: Of both; None takes the GPU where there is one.
        text_cache: Folder of embedded prompts; that of the checkpoint if None.
        length: Rows of an embedding.

    Raises:
        FileNotFoundError, ValueError: The checkpoint is not as expected.
    """
    checkpoint = Path(checkpoint)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    vae = WanVae.from_pretrained(checkpoint / "vae", device=device)
    prompts = PromptEncoder(text_cache or checkpoint / TEXT_CACHE, checkpoint=checkpoint, device=device, length=length)

    def video(pixels: Tensor) -> Tensor:
        return vae.encode(pixels[None].to(device))[0]

    def prepare(texts: Sequence[str]) -> None:
        for text in ("", *texts):
            prompts.encode(text)
        prompts.release()

    return Encoders(
        video=video,
        text=prompts.encode,
        pictures_per_frame=PICTURES_PER_FRAME,
        name=f"wan {_fingerprint(checkpoint / 'vae')}",
        prepare=prepare,
    )


def _fingerprint(folder: Path) -> str:
    """Of the configuration, and of every weight file its header and both ends."""
    config = json.loads((folder / "config.json").read_bytes())
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
    for path in weight_files(folder, "diffusion_pytorch_model.safetensors"):
        digest.update(json.dumps(read_header(path)[0], sort_keys=True).encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, path.stat().st_size - _EDGE))
            digest.update(file.read())
    return digest.hexdigest()[:16]
