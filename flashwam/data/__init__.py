# SPDX-License-Identifier: Apache-2.0
"""Episodes, latents and actions on disk, and the datasets that yield training samples.

Imports core, and what it imports.
"""

from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder, train_autoencoder
from flashwam.data.controls import ControlSpace
from flashwam.data.dataset import EpisodeDataset, to_batch
from flashwam.data.hashed_text import encode_text
from flashwam.data.latents import encode_latents, read_latents
from flashwam.data.lerobot import SegmentDataset

__all__ = [
    "ActionNorm",
    "ControlSpace",
    "EpisodeDataset",
    "FrameAutoencoder",
    "SegmentDataset",
    "encode_latents",
    "encode_text",
    "read_latents",
    "to_batch",
    "train_autoencoder",
]
