# SPDX-License-Identifier: Apache-2.0
"""Drives a model of this process: pictures to latents, chunks to controls.

Letters: B episodes, F latent frames of a chunk, N actions per latent frame, U controls.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flashwam.data.codec import Codec
from flashwam.sampling import Rollout, StreamSampler
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["LocalPolicy", "Sensor"]


class Sensor(Protocol):
    """Makes one of a model's senses of the pictures."""

    def reset(self) -> None:
        """Episodes begin."""

    def sense(self, pictures: np.ndarray) -> Tensor:
        """uint8 [B, F', H, W, 3] -> [B, numbers, F', 1, 1]."""


class LocalPolicy:
    """A model in this process.

    Args:
        wam: The model.
        samplers: How its streams are drawn.
        codec: Between world and model.
        sensors: Senses of the model beside the robot's state -> what makes them.

    Raises:
        ValueError: The model is told something that neither the simulator nor a sensor tells.
    """

    batch = None

    def __init__(
        self,
        wam: WorldActionModel,
        samplers: Mapping[str, StreamSampler],
        codec: Codec,
        *,
        sensors: Mapping[str, Sensor] = MappingProxyType({}),
    ) -> None:
        if not set(wam.senses) <= {"state", *sensors}:
            raise InputError(f"known are the robot's state and {list(sensors)}; the model is told {dict(wam.senses)}")
        self.per_frame = wam.shapes["action"][1]
        self.chunks = 0
        self.seconds: dict[str, float] = {}
        self._wam, self._samplers, self._codec, self._sensors = wam, samplers, codec, sensors
        self._device = next(wam.parameters()).device
        self._first: Tensor | None = None
        self._last: Tensor | None = None

    def reset(self, prompt: str, frames: np.ndarray, *, seed: int, state: np.ndarray | None = None) -> None:
        """See `ChunkPolicy.reset`."""
        self._first = self._codec.video(frames[:, None]).to(self._device)
        for sensor in self._sensors.values():
            sensor.reset()
        told = self._told(frames[:, None], None if state is None else state[:, None])
        self._rollout = Rollout(
            self._wam,
            self._samplers,
            text=self._codec.text(prompt).expand(len(frames), -1, -1).to(self._device),
            null_text=self._codec.text("").to(self._device),
            first={"video": self._first, "action": self._padding(len(frames)), **told},
            generator=torch.Generator().manual_seed(seed),
        )

    def controls(self) -> np.ndarray:
        """See `ChunkPolicy.controls`."""
        before, executed = dict(self._rollout.seconds), self._rollout.executed
        drawn = {name: x.cpu() for name, x in self._rollout.predict().items()}
        self.chunks += 1
        for name, seconds in self._rollout.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds - before[name]
        self._last = drawn["video"][:, :, executed][:, :, -1:] if "video" in drawn else None
        return self._codec.controls(drawn["action"][:, :, executed])

    def foreseen(self) -> np.ndarray | None:
        """See `ChunkPolicy.foreseen`; None for a model that never draws the video."""
        return None if self._last is None else self._codec.pictures(self._last)[:, 0]

    def observe(
        self, pictures: np.ndarray, controls: np.ndarray, *, state: np.ndarray | None = None, under_way: int = 0
    ) -> None:
        """See `ChunkPolicy.observe`, and `Rollout.observe` for what a model makes of controls that are under way."""
        video = self._codec.video(pictures).to(self._device)
        executed = self._codec.executed(controls, self.per_frame).to(self._device)
        if self._first is not None:
            video = torch.cat([self._first, video], 2)
            executed = torch.cat([self._padding(len(pictures)), executed], 2)
            self._first = None
        told = self._told(pictures, state)
        self._rollout.observe({"video": video, "action": executed, **told}, under_way=under_way)

    def _told(self, pictures: np.ndarray, state: np.ndarray | None) -> dict[str, Tensor]:
        """The model's senses, of pictures [B, F, H, W, 3] and the robot's state [B, F, S]."""
        told = {name: sensor.sense(pictures).to(self._device) for name, sensor in self._sensors.items()}
        if "state" not in self._wam.senses or state is None:
            return told
        size = self._wam.senses["state"]
        if state.shape[-1] != size:
            raise InputError(f"the model is told {size} numbers of the robot's state; got {state.shape[-1]}")
        felt = torch.from_numpy(state.astype(np.float32)).transpose(1, 2)[..., None, None]
        return {**told, "state": felt.to(self._device)}

    def _padding(self, episodes: int) -> Tensor:
        channels, per_frame, _ = self._wam.shapes["action"]
        return torch.zeros(episodes, channels, 1, per_frame, 1, device=self._device)
