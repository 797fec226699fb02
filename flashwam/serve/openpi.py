# SPDX-License-Identifier: Apache-2.0
"""openpi's websocket protocol: every message is an observation with its prompt, every reply a chunk of actions.

    request   {"prompt": text, <picture>: uint8 [height, width, 3], ..., "observation/state": float [numbers], ...}
    reply     {"actions": float32 [T, U], "server_timing": {"infer_ms": ...}}

T is the same for every request, and "action_horizon" of the greeting, which is how openpi's `ActionChunkBroker` calls
it.
Its clients tell neither which of the actions they executed nor what was seen meanwhile. So a model has no memory here:
every request begins an episode of its own, at the observation that it brings. Arrays are packed as for LingBot-VA.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flashwam.serve.crossed import refuse_lingbot_va
from flashwam.serve.model import ServedModel
from flashwam.serve.protocol import Dialect
from flashwam.serve.session import MOST_PROMPT, PolicySession, in_order
from flashwam.system.errors import InputError

__all__ = ["OpenPISession", "action_horizon", "camera_keys"]

_PROMPT, _SEED = "prompt", "seed"


def camera_keys(cameras: list[str], given: Mapping[str, str]) -> dict[str, str]:
    """The key of an observation that each of a model's cameras is read from: its own name where nothing is said.

    Args:
        cameras: The model's.
        given: Camera -> key.

    Raises:
        ValueError: A camera is none of the model's, or two are read from one key.
    """
    strange = sorted(given.keys() - set(cameras))
    if strange:
        raise InputError(f"the model has no camera {strange[0]!r}; its cameras are {', '.join(cameras)}")
    keys = {camera: given.get(camera, camera) for camera in cameras}
    if len(set(keys.values())) < len(keys):
        raise InputError(f"every camera needs a key of its own; got {keys}")
    return keys


def action_horizon(model: ServedModel) -> int:
    """Actions of every reply, T: those of an episode's first chunk, but for the observed frame's."""
    wam = model.wam
    actions: int = (min(1 + wam.execute_frames, wam.chunk_frames) - 1) * wam.shapes["action"][1]
    return actions


class OpenPISession:
    """Answers for one connection.

    Args:
        model: Shared with other sessions; nothing of it is changed.
        keys: See `camera_keys`.
        most_prompt: Characters of a prompt.

    Attributes:
        stages: Stage -> milliseconds spent on it by the latest request.
        dialect: How the client packs arrays.
    """

    def __init__(self, model: ServedModel, *, keys: Mapping[str, str], most_prompt: int = MOST_PROMPT) -> None:
        self.dialect = Dialect()
        self.stages: dict[str, float] = {}
        self._keys = keys
        self._senses = [f"observation.{name}" for name in model.wam.senses]
        self._session = PolicySession(model, most_prompt=most_prompt)

    def handle(self, request: Any) -> tuple[str, dict[str, Any]]:
        """Answers one unpacked request.

        Returns:
            "infer", and the reply.

        Raises:
            UnsoundError: as `PolicySession.infer`.
            ValueError, TypeError: the request is not one of the protocol's, or not for this model.
        """
        self.stages = {}
        if not isinstance(request, dict):
            raise ValueError(f"a request is a map; got {type(request).__name__}")
        observation = self._observation(request)
        prompt = request.get(_PROMPT)
        if not isinstance(prompt, str):
            raise ValueError(f"{_PROMPT!r} must be the instruction, which is text; got {type(prompt).__name__}")
        self._session.reset(prompt, seed=request.get(_SEED))
        stages = dict(self._session.stages)
        actions = in_order(self._session.infer(observation))
        self.stages = stages | self._session.stages
        return "infer", {"actions": actions}

    @property
    def refused(self) -> bool:
        """See `PolicySession.refused`."""
        return self._session.refused

    @staticmethod
    def begins(request: Any) -> bool:
        """False: a prompt comes with every request, and is answered where chunks are drawn."""
        return False

    def _observation(self, request: Mapping[Any, Any]) -> dict[str, Any]:
        seen = {}
        for camera, key in self._keys.items():
            if key not in request:
                refuse_lingbot_va(request)
                pictures = sorted(str(name) for name, value in request.items() if _is_picture(value))
                raise ValueError(
                    f"the observation has no picture {key!r} for the model's camera {camera!r}; its pictures are "
                    f"{pictures}: serve with --camera {camera}=KEY"
                )
            seen[camera] = request[key]
        for name in self._senses:
            # openpi's keys have a slash where LeRobot's have a dot.
            seen[name] = request.get(name, request.get(name.replace(".", "/")))
        return seen


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3
