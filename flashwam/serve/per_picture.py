# SPDX-License-Identifier: Apache-2.0
"""A codec for a robot's cameras whose pictures are encoded one by one, each a latent frame.

Letters: K cameras, C latent channels, F pictures, H, W size of the joined latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.encoders import encode_frames
from flashwam.wam.codec import CodecSession, RobotCodec

__all__ = ["PerPictureCodec", "PerPictureSession"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PerPictureCodec(RobotCodec):
    """See `RobotCodec`.

    Args:
        autoencoder: Of single pictures.
    """

    autoencoder: FrameAutoencoder
    keyframes_per_frame: ClassVar[int] = 1

    def open(self) -> "PerPictureSession":
        """See `RobotCodec.open`."""
        return PerPictureSession(self)


class PerPictureSession(CodecSession):
    """See `CodecSession`; it keeps no past.

    Args:
        codec: What is shared.
    """

    def __init__(self, codec: PerPictureCodec) -> None:
        super().__init__(codec)
        self._frames = codec.autoencoder

    def encode(self, observations: Sequence[Mapping[str, Any]]) -> Tensor:
        """See `CodecSession.encode`: F pictures of every camera -> [1, C, F, H, W], as a conversion makes them."""
        cameras = self._codec.cameras
        pixels = cameras.pixels(observations, device=next(self._frames.buffers()).device)
        latents = [torch.stack([encode_frames(self._frames, view) for view in group]) for group in pixels]
        return cameras.join(latents).float()
