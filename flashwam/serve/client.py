# SPDX-License-Identifier: Apache-2.0
"""Talks to a policy server, and drives simulated episodes through one.

Letters: F latent frames of a chunk, N actions per latent frame, U controls.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashwam.serve.protocol import pack, unpack

__all__ = ["PolicyClient", "RemotePolicy"]

Observation = Mapping[str, np.ndarray]


class PolicyClient:
    """One session with a server; a context manager.

    Args:
        url: Such as "ws://127.0.0.1:29536".
        token: Where the server asks for one.
        timeout: Seconds to wait for each reply; None waits for ever.

    Attributes:
        metadata: What the server tells of its model.
        timing: `server_timing` of the latest reply, in milliseconds.

    Raises:
        OSError: nobody answers at `url`.
        RuntimeError: the server refuses the connection.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float | None = 600.0) -> None:
        try:
            from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
            from websockets.sync.client import connect
        except ImportError as error:
            raise ImportError("a client needs websockets: pip install 'flashwam[serve]'") from error
        self._url = url
        self._timeout = timeout
        self._closed = ConnectionClosed
        self.timing: dict[str, float] = {}
        try:
            self._connection = connect(
                url,
                additional_headers=None if token is None else {"Authorization": f"Bearer {token}"},
                open_timeout=10,
                compression=None,
                max_size=None,
                ping_interval=None,
            )
        except InvalidURI as error:
            raise ValueError(f"a server's address reads like ws://127.0.0.1:29536; got {url!r}") from error
        except InvalidHandshake as error:
            raise RuntimeError(f"{url} refused the connection: {error}") from error
        except OSError as error:
            raise ConnectionError(f"no policy server answers at {url} ({error}); start one: flashwam serve") from error
        self.metadata: dict[str, Any] = self._receive()

    def reset(self, prompt: str, *, seed: int | None = None) -> None:
        """Begins an episode; `seed` fixes the server's noise."""
        self._ask({"reset": True, "prompt": prompt} | ({} if seed is None else {"seed": seed}))

    def infer(self, observation: Observation | None = None) -> np.ndarray:
        """Draws the next chunk.

        Args:
            observation: Camera name -> uint8 [height, width, 3]; needed by the first chunk of an episode alone.

        Returns:
            Controls, float32 [U, F, N]; in the first chunk, frame 0 is padding.
        """
        return self._ask({} if observation is None else {"obs": dict(observation)})["action"]

    def refresh(self, observations: Sequence[Observation], state: np.ndarray) -> None:
        """Tells what happened.

        Args:
            observations: What was seen while the chunk was executed, oldest first.
            state: The executed controls, [U, F, N]; in the first chunk, frame 0 is padding.
        """
        seen = [dict(observation) for observation in observations]
        self._ask({"obs": seen, "compute_kv_cache": True, "imagine": False, "state": state})

    def close(self) -> None:
        """Ends the session."""
        self._connection.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        packed = pack(request)
        # Where the server has ended the session, the reason is waiting to be read.
        with contextlib.suppress(self._closed):
            self._connection.send(packed)
        reply = self._receive()
        self.timing = reply.get("server_timing", {})
        return reply

    def _receive(self) -> dict[str, Any]:
        try:
            message = self._connection.recv(self._timeout)
        except self._closed as error:
            raise RuntimeError(f"{self._url} ended the session: {error}") from error
        except TimeoutError as error:
            self._connection.close()
            raise TimeoutError(f"{self._url} has not answered within {self._timeout:g} s") from error
        if isinstance(message, str):
            raise RuntimeError(f"{self._url} could not answer: {message}")
        return unpack(message)


class RemotePolicy:
    """A served model that drives one simulated episode at a time, as `flashwam.sim.closed_loop` asks of a policy.

    Args:
        client: A session with a model of one camera and one picture per latent frame.

    Raises:
        ValueError: the server's model is another kind.
    """

    batch = 1

    def __init__(self, client: PolicyClient) -> None:
        metadata = client.metadata
        cameras = metadata.get("cameras", ())
        if len(cameras) != 1 or metadata.get("keyframes_per_frame") != 1:
            raise ValueError(
                f"the simulator has one camera and one picture per latent frame; the server's model has cameras "
                f"{list(cameras)} and {metadata.get('keyframes_per_frame')} pictures"
            )
        self.per_frame = int(metadata["actions_per_frame"])
        self.size = int(metadata["picture_size"][0])
        self.chunks = 0
        self.seconds = {"infer": 0.0, "refresh": 0.0}
        self.chunk_ms: list[float] = []
        self._camera = cameras[0]
        self._client = client
        self._first: np.ndarray | None = None
        self._state: np.ndarray | None = None

    def reset(self, prompt: str, frames: np.ndarray, *, seed: int) -> None:
        """Begins an episode: frames uint8 [1, H, W, 3]."""
        self._client.reset(prompt, seed=seed)
        self._first = frames[0]

    def controls(self) -> np.ndarray:
        """The controls to execute now, float32 [1, F' * N, U]; F' is F - 1 in the first chunk, then F."""
        start = time.perf_counter()
        self._state = self._client.infer(None if self._first is None else {self._camera: self._first})
        self.chunk_ms.append(1000 * (time.perf_counter() - start))
        self.seconds["infer"] += self.chunk_ms[-1] / 1000
        self.chunks += 1
        held = 0 if self._first is None else 1
        return self._state[:, held:].transpose(1, 2, 0).reshape(1, -1, self._state.shape[0])

    def foreseen(self) -> None:
        """See `ChunkPolicy.foreseen`: the protocol carries actions alone."""

    def observe(self, seen: np.ndarray, controls: np.ndarray) -> None:
        """Tells what was seen, uint8 [1, F', H, W, 3], after each N of the executed controls [1, F' * N, U]."""
        start = time.perf_counter()
        state = self._state.copy()
        held = state.shape[1] - seen.shape[1]
        state[:, held:] = controls[0].reshape(seen.shape[1], self.per_frame, -1).transpose(2, 0, 1)
        self._client.refresh([{self._camera: picture} for picture in seen[0]], state)
        self.seconds["refresh"] += time.perf_counter() - start
        self._first = None
