# SPDX-License-Identifier: Apache-2.0
"""Episodes, latents and actions on disk, and the datasets that yield training samples."""

from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder, train_autoencoder
from flashwam.data.dataset import EpisodeDataset, to_batch
from flashwam.data.latents import encode_latents, read_latents
from flashwam.data.text import encode_text

__all__ = [
    "ActionNorm",
    "EpisodeDataset",
    "FrameAutoencoder",
    "encode_latents",
    "encode_text",
    "read_latents",
    "to_batch",
    "train_autoencoder",
]
