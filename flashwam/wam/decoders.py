# SPDX-License-Identifier: Apache-2.0
"""Finds what decodes a model's latents into pictures."""

from pathlib import Path

from flashwam.data.codec import CODEC_FILE, Codec
from flashwam.data.pictures import FramePictures, PictureDecoder
from flashwam.system.errors import InputError
from flashwam.system.json_file import read_mapping
from flashwam.wam.codec import base_checkpoint
from flashwam.wam.files import all_files

__all__ = ["find_decoder"]


def find_decoder(folder: Path | None) -> tuple[PictureDecoder, int | None]:
    """Finds the decoder of what a model draws: its own, that of the checkpoint which its codec notes, or of `vae/`.

    Args:
        folder: The model's, or a checkpoint's.

    Returns:
        The decoder, and the width of the model's text embedding where the folder tells.

    Raises:
        FileNotFoundError, ValueError: there is no decoder, or nobody knows it.
    """
    path = None if folder is None else folder / CODEC_FILE
    if folder is not None and path is not None and path.is_file():
        family = read_mapping(path).get("family")
        if family is None:
            codec = Codec.load(folder)
            return FramePictures(codec.autoencoder), codec.text("").shape[-1]
        folder = base_checkpoint(folder, family=str(family))
    config = None if folder is None else folder / "vae" / "config.json"
    if folder is None or config is None or not config.is_file():
        raise InputError(f"{folder} has no vae/ to decode with what its model draws")
    name = str(read_mapping(config).get("_class_name"))
    for files in all_files():
        if files.encodes(name):
            return files.picture_decoder(folder), None
    raise InputError(f"no model family knows the autoencoder {name!r} of {folder}")
