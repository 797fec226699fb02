# SPDX-License-Identifier: Apache-2.0
"""An episode driven by hand through a session, with no part of the policy, and through a policy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.envs.utils import preprocess_observation

from flashwam.serve.model import load_served
from flashwam.serve.session import PolicySession

__all__ = ["by_hand", "by_policy", "lerobot_batch"]


def by_hand(folder: Path, films: Mapping[str, np.ndarray], *, prompt: str, seed: int) -> np.ndarray:
    """Actions [steps, U] of an episode whose cameras see `films` (camera -> uint8 [steps, H, W, 3]), a picture a step.

    Picture t is what is seen after t actions. A chunk's pictures are those after every (N / pictures a frame) actions.
    """
    model = load_served(folder)
    per_frame, pictures = model.metadata["actions_per_frame"], model.metadata["keyframes_per_frame"]
    steps = len(next(iter(films.values())))

    def seen(step: int) -> dict[str, np.ndarray]:
        return {camera: film[step] for camera, film in films.items()}

    session, actions = PolicySession(model), []
    session.reset(prompt, seed=seed)
    chunk, begun, held = session.infer(seen(0)), 0, 1
    while True:
        frames = chunk.shape[1] - held
        for frame in range(held, chunk.shape[1]):
            actions += [chunk[:, frame, row] for row in range(per_frame)]
        ended = begun + frames * per_frame
        if ended >= steps:
            return np.stack(actions)[:steps]
        stride = per_frame // pictures
        shown = [begun + stride * (number + 1) for number in range(frames * pictures)]
        session.refresh([seen(step) for step in shown], chunk)
        chunk, begun, held = session.infer(), ended, 0


def lerobot_batch(pictures: Mapping[str, np.ndarray], tasks: Sequence[str]) -> dict[str, Any]:
    """An observation as LeRobot's evaluation makes it: name -> uint8 [B, H, W, 3]."""
    return {**preprocess_observation({"pixels": dict(pictures)}), "task": list(tasks)}


def by_policy(policy: Any, films: Sequence[Mapping[str, np.ndarray]], *, tasks: Sequence[str]) -> np.ndarray:
    """Actions [B, steps, U] of B environments, each with its films (name without "observation.images.")."""
    steps = len(next(iter(films[0].values())))
    actions = []
    for step in range(steps):
        pictures = {name: np.stack([film[name][step] for film in films]) for name in films[0]}
        with torch.inference_mode():
            actions.append(policy.select_action(lerobot_batch(pictures, tasks)))
    return torch.stack(actions, 1).numpy()
