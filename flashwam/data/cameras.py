# SPDX-License-Identifier: Apache-2.0
"""Several cameras as one picture of latents, arranged as by LingBot-VA's server.

Letters: K cameras, T pictures, C latent channels, F latent frames, H, W size of the joined latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flashwam.data.encoders import Resize, check_resize, to_pixels
from flashwam.data.layouts import ARRANGEMENTS, arrange
from flashwam.system.errors import InputError

__all__ = ["CameraLayout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraLayout:
    """A layout of cameras: which there are, at which size they are encoded, and where their latents go.

    Args:
        cameras: Keys of the observation, in the model's order.
        image_size: Rows and columns a full picture is resized to.
        arrangement: "width" puts the cameras side by side, all at full size. "tshape" (RoboTwin) takes a head camera
            at full size and two wrist cameras at half of it; the wrists lie side by side above the head.
        factor: Pixels per latent row and column.
        resize: See `flashwam.data.encoders.to_pixels`.
    """

    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    arrangement: str = "width"
    factor: int = 16
    resize: Resize = "stretch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if self.arrangement not in ARRANGEMENTS:
            raise InputError(f"arrangement must be one of {ARRANGEMENTS}, got {self.arrangement!r}")
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"cameras must be distinct and at least one, got {self.cameras}")
        if self.arrangement == "tshape" and len(self.cameras) != 3:
            raise InputError(f"tshape takes (head, left wrist, right wrist), got {self.cameras}")
        check_resize(self.resize)
        multiple = self.factor * (2 if self.arrangement == "tshape" else 1)
        if len(self.image_size) != 2 or any(side < 1 or side % multiple for side in self.image_size):
            raise InputError(f"image_size must be (rows, columns), multiples of {multiple}, got {self.image_size}")

    @property
    def groups(self) -> tuple[tuple[tuple[str, ...], tuple[int, int]], ...]:
        """Cameras that are encoded together, with the size of their pictures; each group has its own past."""
        if self.arrangement == "width":
            return ((self.cameras, self.image_size),)
        rows, columns = self.image_size
        return (self.cameras[:1], self.image_size), (self.cameras[1:], (rows // 2, columns // 2))

    @property
    def latent_size(self) -> tuple[int, int]:
        """(H, W) of the joined latents."""
        rows, columns = (side // self.factor for side in self.image_size)
        return (rows, columns * len(self.cameras)) if self.arrangement == "width" else (rows + rows // 2, columns)

    def stack(self, observations: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
        """Takes T observations apart.

        Returns:
            One uint8 array [T, rows, columns, 3] per camera, in the layout's order.

        Raises:
            ValueError: There is no observation, a camera is missing, or its pictures are not uint8 RGB of one size.
        """
        if not observations:
            raise InputError("expected at least one observation, got none")
        return [np.stack(pictures) for pictures in self._pictures(observations)]

    def check(self, observations: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Refuses observations that `stack` would not take; none is well."""
        self._pictures(observations)

    def _pictures(self, observations: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
        """Takes observations apart: the pictures of each camera."""
        apart = []
        for camera in self.cameras:
            pictures = []
            for index, observation in enumerate(observations):
                if camera not in observation:
                    raise InputError(
                        f"observation {index} has no camera {camera!r}; expected {self.cameras}, got "
                        f"{sorted(map(str, observation))}"
                    )
                if isinstance(observation[camera], Mapping):
                    keys = sorted(map(str, observation[camera]))[:9]
                    raise InputError(
                        f"{camera}: expected uint8 [rows, columns, 3], got a map of {keys}: arrays are packed as "
                        "openpi's msgpack_numpy or the package msgpack-numpy packs them"
                    )
                picture = np.asarray(observation[camera])
                if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
                    raise InputError(
                        f"{camera}: expected uint8 [rows, columns, 3], got {picture.dtype} {picture.shape}"
                    )
                pictures.append(picture)
            if len({picture.shape for picture in pictures}) > 1:
                raise InputError(f"{camera}: the pictures of one call differ in size: {[p.shape for p in pictures]}")
            apart.append(pictures)
        return apart

    def pixels(
        self, observations: Sequence[Mapping[str, np.ndarray]], *, device: torch.device | str = "cpu"
    ) -> list[Tensor]:
        """Per group: [K, 3, T, rows, columns] in [-1, 1], float32, resized on the device."""
        by_camera = dict(zip(self.cameras, self.stack(observations), strict=True))
        return [
            torch.stack([to_pixels(by_camera[key], size, resize=self.resize, device=device) for key in keys])
            for keys, size in self.groups
        ]

    def join(self, latents: Sequence[Tensor]) -> Tensor:
        """Per group [K, C, F, h, w] -> [1, C, F, H, W]."""
        return arrange(self.arrangement, [view for group in latents for view in group]).unsqueeze(0)

    def split(self, latents: Tensor) -> list[Tensor]:
        """Takes joined latents [1, C, F, H, W] apart: per group [K, C, F, h, w]."""
        if latents.shape[0] != 1 or tuple(latents.shape[-2:]) != self.latent_size:
            raise ValueError(f"expected latents [1, C, F, {self.latent_size}], got {tuple(latents.shape)}")
        bands, top = [], 0
        for keys, (rows, _) in reversed(self.groups):
            band = latents[0, ..., top : top + rows // self.factor, :]
            bands.append(torch.stack(band.chunk(len(keys), -1)))
            top += rows // self.factor
        return bands[::-1]
