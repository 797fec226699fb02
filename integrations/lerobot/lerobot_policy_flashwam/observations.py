# SPDX-License-Identifier: Apache-2.0
"""From a batch of LeRobot's observations to one environment's, as flashwam's sessions take it.

Letters: B environments, H and W rows and columns of a picture, S numbers of a sense.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashwam.serve.codec import FrameCodec
from flashwam.serve.model import ServedModel
from flashwam.serve.openpi import camera_keys
from flashwam.system.errors import InputError

__all__ = ["ObservationReader", "to_picture"]

_SLACK = 1e-3
"""Rounding beyond [0, 1] that a picture may have, a quarter of a grey level."""


def to_picture(picture: Tensor, key: str) -> np.ndarray:
    """Turns a picture of LeRobot's into pixels; k / 255 in float32 becomes k again, for every k.

    Args:
        picture: float32 or float64 [3, H, W] in [0, 1], or uint8 [3, H, W].
        key: Named in errors.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: It is something else.
    """
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.dtype not in (torch.float32, torch.float64, torch.uint8):
        raise InputError(
            f"{key}: expected a picture, float32 [3, height, width] in [0, 1] or uint8; got {picture.dtype} "
            f"{list(picture.shape)}"
        )
    if picture.dtype != torch.uint8:
        low, high = (float(value) for value in torch.aminmax(picture))
        # Written so that a NaN is refused.
        if not (low >= -_SLACK and high <= 1 + _SLACK):
            raise InputError(
                f"{key}: expected a picture in [0, 1]; got values from {low:g} to {high:g}: leave normalisation to the "
                "model (LeRobot's processors of the policy type flashwam have none)"
            )
        picture = (picture * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy())


class ObservationReader:
    """Reads what a model is shown.

    Args:
        model: Says its cameras, their size and its senses.
        cameras: Camera -> key of the observation, where they differ.
        resize: Scale a picture where the model takes one size alone.
        mirrored: Pictures come mirrored left to right, and are mirrored back.
        prompt: In place of an observation's task.

    Raises:
        ValueError: a camera is none of the model's, or two are read from one key.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        cameras: Mapping[str, str],
        resize: bool = False,
        mirrored: bool = False,
        prompt: str | None = None,
    ) -> None:
        self._given = dict(cameras)
        self._keys = camera_keys(list(model.metadata["cameras"]), cameras)
        self._senses: dict[str, int] = dict(model.metadata.get("senses", {}))
        height, width = model.metadata["picture_size"]
        self._size = (int(height), int(width))
        # A video autoencoder's codec scales pictures of any size by itself, as for its training.
        self._exact = isinstance(model.codec(), FrameCodec)
        self._resize = resize
        self._mirrored = mirrored
        self._prompt = prompt

    def environments(self, batch: Mapping[str, Any]) -> int:
        """Counts the environments of a batch.

        Raises:
            ValueError: A camera is missing, or its pictures have no batch dimension.
        """
        key = next(iter(self._found(batch).values()))
        if batch[key].ndim != 4:
            raise InputError(
                f"{key}: expected pictures [environments, 3, height, width]; got {list(batch[key].shape)}: send "
                "observations through the policy's preprocessor"
            )
        return int(batch[key].shape[0])

    def prompts(self, batch: Mapping[str, Any], environments: int) -> list[str]:
        """Gives the instruction of every environment.

        Raises:
            ValueError: There is none, or not one for each.
        """
        if self._prompt is not None:
            return [self._prompt] * environments
        told = batch.get("task")
        tasks = [told] * environments if isinstance(told, str) else list(told or ())
        if len(tasks) != environments or not all(isinstance(task, str) and task for task in tasks):
            raise InputError(
                f"expected a task in words for each of {environments} environment(s); got {told!r}: give the "
                "environment or the recording a task, or --policy.prompt='what to do'"
            )
        return tasks

    def observation(self, batch: Mapping[str, Any], environment: int) -> dict[str, np.ndarray]:
        """Reads one environment's observation: camera -> uint8 [H, W, 3], "observation.<sense>" -> float32 [S].

        Raises:
            ValueError: A camera or sense is missing, or is not what the model is shown.
        """
        seen = {
            camera: self._sized(self._turned(to_picture(batch[key][environment], key)), key)
            for camera, key in self._found(batch).items()
        }
        for name, size in self._senses.items():
            key = f"observation.{name}"
            values = batch.get(key)
            if not isinstance(values, Tensor) or values.ndim != 2 or values.shape[1] != size:
                got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise InputError(f"the model feels {key!r}: expected numbers [environments, {size}]; got {got}")
            seen[key] = values[environment].float().cpu().numpy()
        return seen

    def _found(self, batch: Mapping[str, Any]) -> dict[str, str]:
        """The key of every camera in this batch."""
        pictures = sorted(key for key, value in batch.items() if _are_pictures(value))
        found = {}
        for camera, key in self._keys.items():
            usual = f"observation.images.{key}"
            if key not in pictures and camera not in self._given:
                if usual in pictures:
                    key = usual
                elif len(self._keys) == len(pictures) == 1:
                    key = pictures[0]
            if key not in pictures:
                raise InputError(
                    f"the observation has no picture {key!r} for the model's camera {camera!r}; its pictures are "
                    f"{pictures}: give --policy.cameras='{{{camera}: KEY}}'"
                )
            found[camera] = key
        return found

    def _turned(self, picture: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(picture[:, ::-1]) if self._mirrored else picture

    def _sized(self, picture: np.ndarray, key: str) -> np.ndarray:
        if not self._exact or picture.shape[:2] == self._size:
            return picture
        if not self._resize:
            raise InputError(
                f"{key}: the model takes pictures of {list(self._size)} pixels; got {list(picture.shape[:2])}: render "
                "them at that size, or give --policy.resize=true"
            )
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        scaled = torch.nn.functional.interpolate(pixels, self._size, mode="bilinear", antialias=True)
        return np.ascontiguousarray(scaled[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


def _are_pictures(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 3 and value.shape[-3] == 3
