# SPDX-License-Identifier: Apache-2.0
"""Latents of one autoencoder, whoever encoded the folder last: what another made is made anew in memory.

Models of different autoencoders may share a folder of episodes, and each writes its own latents over the others'.
"""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.episodes import read_frames, video_path
from flashwam.data.latents import LatentSegment, fingerprint, latent_path, read_latents
from flashwam.system.errors import MissingFileError

__all__ = ["OwnLatents"]

logger = logging.getLogger(__name__)


class OwnLatents:
    """Reads latent files, and encodes the pictures of those that another autoencoder made.

    Args:
        autoencoder: Whose latents are wanted; None takes every file as it is, as does a file that does not tell.
    """

    def __init__(self, autoencoder: FrameAutoencoder | None) -> None:
        self._autoencoder = autoencoder
        self._made_by = None if autoencoder is None else fingerprint(autoencoder)
        self._told = False

    def read(self, repo: Path, index: int, start: int, end: int, camera: str) -> LatentSegment:
        """Reads a segment's latents, see `latent_path`.

        Raises:
            FileNotFoundError, ValueError: As `read_latents`; or they are another autoencoder's, and the pictures are
                missing or damaged.
        """
        path = latent_path(repo, index, start, end, camera)
        found = read_latents(path)
        if self._autoencoder is None or found.autoencoder in (None, self._made_by):
            return found
        video = video_path(repo, index, camera)
        if not video.is_file():
            raise MissingFileError(
                f"{path} holds latents of another autoencoder than the model's, and {video}, of which its own could be "
                "made, is missing: fetch the videos with the data, or set data.root to episodes of this model's"
            )
        if not self._told:
            logger.warning("latents below %s are of another autoencoder: its own are made anew, in memory", repo.parent)
            self._told = True
        rows = range(found.first_row, found.first_row + found.latents.shape[1] * found.stride, found.stride)
        # In the files' precision, so that the samples are those of a folder that holds the model's own latents.
        latents = self._autoencoder.encode(read_frames(video, rows)).to("cpu", torch.bfloat16).float()
        return replace(found, latents=latents.transpose(0, 1).contiguous(), autoencoder=self._made_by)
