# SPDX-License-Identifier: Apache-2.0
"""One simulated episode of a robot with several cameras, driven through a policy server.

The traffic is that of LingBot-VA's published clients: every chunk is asked for with the episode's first pictures, is
executed whole, and is answered with the pictures taken meanwhile and the controls as they came.

Letters: F latent frames of a chunk, N controls per latent frame, U controls, K pictures of a film, H, W pixels.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from flashwam.serve.client import controls_between_pictures
from flashwam.sim.contract import Environment

__all__ = ["ChunkServer", "Driven", "drive_episode"]


class ChunkServer(Protocol):
    """The requests that an episode takes, see `PolicyClient`."""

    metadata: dict[str, Any]

    def reset(self, prompt: str, *, seed: int | None = None) -> None:
        """Begins an episode."""

    def infer(self, observation: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Draws the next chunk, float32 [U, F, N]."""

    def refresh(self, observations: list[Mapping[str, np.ndarray]], state: np.ndarray) -> None:
        """Tells what happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """The outcome of an episode.

    Args:
        success: Whether the task was done.
        steps: Control steps.
        chunk_ms: Milliseconds of every chunk's round trip.
        film: By camera, a picture at the beginning and after every chunk, uint8 [cameras, K, H, W, 3].
    """

    success: bool
    steps: int
    chunk_ms: tuple[float, ...]
    film: np.ndarray


def drive_episode(client: ChunkServer, env: Environment, *, scene: int, seed: int) -> Driven:
    """Drives one episode to its end.

    Args:
        client: A session with a server whose model has the environment's cameras.
        env: The environment.
        scene: Its scene.
        seed: Of the server's noise; a server of another make draws it as it likes.

    Raises:
        RuntimeError: The server fails.
        ValueError: Its chunks cannot be divided among its pictures.
    """
    env.reset(scene, render=False)
    client.reset(env.prompt, seed=seed)
    first = _observed(client, env)
    film: list[Mapping[str, np.ndarray]] = [first]
    chunk_ms: list[float] = []
    begun, done = 1, False
    while not done:
        clock = time.perf_counter()
        controls = client.infer(first)
        chunk_ms.append(1000 * (time.perf_counter() - clock))
        every = _controls_per_picture(client, controls.shape[2])
        told: list[Mapping[str, np.ndarray]] = []
        # Frame 0 of an episode's first chunk is what was seen; its controls are padding.
        for step, control in enumerate(controls[:, begun:].reshape(len(controls), -1).T):
            done, _, _ = env.step(control)
            if done:
                break
            if (step + 1) % every == 0:
                told.append(_observed(client, env))
        film.append(_observed(client, env) if done else told[-1])
        if not done:
            client.refresh(told, controls)
        begun = 0
    pictures = np.stack([np.stack([moment[key] for moment in film]) for key in env.cameras])
    return Driven(success=env.success, steps=env.steps, chunk_ms=tuple(chunk_ms), film=pictures)


def _observed(client: ChunkServer, env: Environment) -> dict[str, np.ndarray]:
    """The present pictures, and the robot's state where the model senses it."""
    senses = {"observation.state": env.proprioception} if "state" in (client.metadata.get("senses") or {}) else {}
    return {**env.look(), **{key: value.astype(np.float32) for key, value in senses.items()}}


def _controls_per_picture(client: ChunkServer, per_frame: int) -> int:
    """Controls between two pictures that the server is told of; a server that says nothing takes four a frame."""
    pictures = int(client.metadata.get("keyframes_per_frame") or 4)
    return controls_between_pictures({"actions_per_frame": per_frame, "keyframes_per_frame": pictures})
