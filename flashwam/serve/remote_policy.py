# SPDX-License-Identifier: Apache-2.0
"""Drives simulated episodes through a policy server.

Letters: F latent frames of a chunk, N actions per latent frame, U controls.
"""

import time

import numpy as np

from flashwam.serve.client import PolicyClient, greeted_cameras, greeted_number
from flashwam.system.errors import InputError
from flashwam.system.json_file import shown

__all__ = ["RemotePolicy"]


class RemotePolicy:
    """A served model that drives one simulated episode at a time, as `flashwam.sim.closed_loop` asks of a policy.

    Args:
        client: A session with a model of one camera and one picture per latent frame.

    Attributes:
        picture: Height and width of the pictures that the model is shown, in pixels.

    Raises:
        ValueError: the server's model is another kind.
    """

    batch = 1

    def __init__(self, client: PolicyClient) -> None:
        metadata = client.metadata
        cameras = greeted_cameras(metadata)
        if len(cameras) != 1 or metadata.get("keyframes_per_frame") != 1:
            raise InputError(
                f"the simulator has one camera and one picture per latent frame; the server's model has cameras "
                f"{list(cameras)} and {metadata.get('keyframes_per_frame')} pictures"
            )
        self.per_frame = greeted_number(metadata, "actions_per_frame")
        size = metadata.get("picture_size")
        if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
            raise InputError(f"the server must say its picture_size, height and width; got {shown(size)}")
        self.picture = (size[0], size[1])
        self.chunks = 0
        self.seconds = {"infer": 0.0, "refresh": 0.0}
        self.chunk_ms: list[float] = []
        self._camera = cameras[0]
        self._client = client
        self._senses = dict(metadata.get("senses", {}))
        self._first: dict[str, np.ndarray] | None = None
        self._state: np.ndarray | None = None

    def reset(self, prompt: str, frames: np.ndarray, *, seed: int, state: np.ndarray | None = None) -> None:
        """Begins an episode: frames uint8 [1, H, W, 3], the robot's state [1, S]."""
        self._client.reset(prompt, seed=seed)
        self._first = self._observation(frames[0], None if state is None else state[0])

    def controls(self) -> np.ndarray:
        """The controls to execute now, float32 [1, F' * N, U]; F' is F - 1 in the first chunk, then F."""
        start = time.perf_counter()
        self._state = self._client.infer(self._first)
        self.chunk_ms.append(1000 * (time.perf_counter() - start))
        self.seconds["infer"] += self.chunk_ms[-1] / 1000
        self.chunks += 1
        held = 0 if self._first is None else 1
        return self._state[:, held:].transpose(1, 2, 0).reshape(1, -1, self._state.shape[0])

    def foreseen(self) -> None:
        """See `ChunkPolicy.foreseen`: the protocol carries actions alone."""

    def observe(
        self, pictures: np.ndarray, controls: np.ndarray, *, state: np.ndarray | None = None, under_way: int = 0
    ) -> None:
        """See `ChunkPolicy.observe`, of one episode."""
        start = time.perf_counter()
        if self._state is None:
            raise ValueError("nothing was executed that could be observed: ask for controls before")
        done = self._state.copy()
        frames = controls.shape[1] // self.per_frame
        # Of fewer controls numpy would make as many as there are.
        if controls.shape != (1, frames * self.per_frame, len(done)) or not 0 < frames <= done.shape[1]:
            raise ValueError(
                f"expected controls [1, T, {len(done)}] of up to {done.shape[1]} latent frames, {self.per_frame} steps "
                f"each; got {list(controls.shape)}"
            )
        done[:, done.shape[1] - frames :] = controls[0].reshape(frames, self.per_frame, -1).transpose(2, 0, 1)
        felt = [None] * pictures.shape[1] if state is None else state[0]
        seen = [self._observation(*pair) for pair in zip(pictures[0], felt, strict=True)]
        self._client.refresh(seen, done, under_way=under_way)
        self.seconds["refresh"] += time.perf_counter() - start
        self._first = None

    def _observation(self, picture: np.ndarray, state: np.ndarray | None) -> dict[str, np.ndarray]:
        """Gives the observation of one moment, as the server's model takes it."""
        told = {f"observation.{name}": state for name in self._senses if state is not None}
        return {self._camera: picture, **{key: x.astype(np.float32) for key, x in told.items()}}
