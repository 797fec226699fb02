# SPDX-License-Identifier: Apache-2.0
"""Episodes, latents and actions on disk, and the datasets that yield training samples.

Imports core, and what it imports.
"""

import importlib
from typing import Any

# Imported when first used: processes that collect demonstrations need none of these, nor torch.
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

_HOME = {
    "ActionNorm": "flashwam.data.actions",
    "ControlSpace": "flashwam.data.controls",
    "EpisodeDataset": "flashwam.data.dataset",
    "FrameAutoencoder": "flashwam.data.autoencoder",
    "SegmentDataset": "flashwam.data.lerobot",
    "encode_latents": "flashwam.data.latents",
    "encode_text": "flashwam.data.hashed_text",
    "read_latents": "flashwam.data.latents",
    "to_batch": "flashwam.data.dataset",
    "train_autoencoder": "flashwam.data.autoencoder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flashwam.data' has no attribute {name!r}; it has {', '.join(__all__)}")
    # Kept, so that the import happens once.
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
