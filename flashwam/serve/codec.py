# SPDX-License-Identifier: Apache-2.0
"""A codec between one served episode and its model: pictures, controls and prompts.

Letters: C and A channels, F latent frames of a chunk, N actions per latent frame, U controls, L text tokens, D width.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from flashwam.data.actions import ActionNorm
from flashwam.data.codec import Codec
from flashwam.data.episodes import CAMERA

__all__ = ["FrameCodec", "Observation", "ObservationCodec", "copied", "kind_and_shape"]

Observation = Mapping[str, Any]
"""Camera name -> uint8 [height, width, 3], and "observation.<name>", float [numbers], for each of the model's senses;
other keys are ignored."""


class ObservationCodec(Protocol):
    """A codec between one episode and the model.

    A new one is made at every reset, so it may keep state, such as a video encoder's. Actions it is given are float32
    on the CPU; what it returns may be on any device. What a client sent wrongly is a ValueError or TypeError.
    """

    @property
    def norm(self) -> ActionNorm:
        """Normalisation of the controls; its limit says which actions are never sent."""

    def check(self, observations: Sequence[Observation]) -> None:
        """Refuses pictures that `encode` would not take, be they fewer than it takes; nothing is encoded."""

    def encode(self, observations: Sequence[Observation]) -> Tensor:
        """Pictures that follow on those of earlier calls -> latents [1, C, F, h, w]; the first call has one."""

    def actions(self, actions: Tensor) -> np.ndarray:
        """Model actions [1, A, F, N, 1] -> controls, float32 [U, F, N]."""

    def executed(self, state: np.ndarray) -> Tensor:
        """Executed controls, float32 [U, F, N] -> model actions [1, A, F, N, 1]."""

    @property
    def text_rows(self) -> int | None:
        """L where it is the same for every prompt and known before one is embedded."""

    def text(self, prompt: str) -> Tensor:
        """[1, L, D]."""


class FrameCodec:
    """`Codec` for one camera: one picture is one latent frame.

    Args:
        codec: Shared among sessions; it keeps no state.
        size: Height and width of a picture in pixels.
        camera: Key of the picture in an observation.
    """

    def __init__(self, codec: Codec, *, size: tuple[int, int], camera: str = CAMERA) -> None:
        self._codec = codec
        self._size = size
        self._camera = camera

    @property
    def norm(self) -> ActionNorm:
        """See `ObservationCodec`."""
        return self._codec.actions

    def check(self, observations: Sequence[Observation]) -> None:
        """See `ObservationCodec.check`."""
        for observation in observations:
            self._picture(observation)

    def encode(self, observations: Sequence[Observation]) -> Tensor:
        """See `ObservationCodec.encode`."""
        return self._codec.video(np.stack([self._picture(observation) for observation in observations])[None])

    def _picture(self, observation: Observation) -> np.ndarray:
        picture, shape = observation.get(self._camera), (*self._size, 3)
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape != shape:
            raise ValueError(f"{self._camera!r} must be a picture, uint8 {list(shape)}; got {kind_and_shape(picture)}")
        return picture

    def actions(self, actions: Tensor) -> np.ndarray:
        """See `ObservationCodec.actions`."""
        rows: np.ndarray = self._codec.controls(actions)[0]
        return rows.reshape(actions.shape[2], -1, len(self._codec.actions.used)).transpose(2, 0, 1)

    def executed(self, state: np.ndarray) -> Tensor:
        """See `ObservationCodec.executed`."""
        return self._codec.executed(state.transpose(1, 2, 0).reshape(1, -1, state.shape[0]), state.shape[2])

    @property
    def text_rows(self) -> int | None:
        """See `ObservationCodec.text_rows`; prompts cost nothing here."""
        return None

    def text(self, prompt: str) -> Tensor:
        """See `ObservationCodec.text`."""
        return self._codec.text(prompt)[None]


def copied(observation: Observation, keys: Container[str]) -> dict[str, np.ndarray]:
    """Copies an observation's arrays of these keys, of any shapes; whatever else came with them is let go."""
    return {key: x.copy() for key, x in observation.items() if key in keys and isinstance(x, np.ndarray)}


def kind_and_shape(value: Any) -> str:
    """Describes a value that a client sent: type and shape of an array, else the type."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
