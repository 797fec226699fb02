# SPDX-License-Identifier: Apache-2.0
"""Drives a robot at its own pace through a policy server, its next chunk asked for before the last one has ended.

Letters: F latent frames of a chunk, N actions per latent frame, U controls.
"""

import time
from collections.abc import Sequence

import numpy as np

from flashwam.serve.client import Observation, PolicyClient, as_sent
from flashwam.system.errors import FailedError, InputError

__all__ = ["ChunkStream"]


class ChunkStream:
    """The controls of one episode, a latent frame at a time.

    The robot executes what `next` gives and tells what it saw with `saw`, by turns. So many frames before its chunk
    ends, the server is told what was seen and what will have been executed, and draws the next chunk while the robot
    executes the rest; that chunk begins where the robot will be.

    A chunk that comes late is executed from its beginning all the same, and nothing of it is dropped: the robot has
    come to rest where it begins. Until then `next` waits, or gives None and the robot holds.

    Args:
        client: A session; nobody else asks anything of it.
        under_way: Frames of a chunk that are still to be executed when the next one is asked for; 0 for a robot that
            holds. At least one frame of every chunk is seen before.

    Attributes:
        waited_ms: Of every chunk but the first, milliseconds that the robot was without controls.

    Raises:
        ValueError: The number is below 0, or the server takes no frames under way.
    """

    def __init__(self, client: PolicyClient, *, under_way: int = 1) -> None:
        if under_way < 0:
            raise InputError(f"under_way must be a number of latent frames, 0 or more; got {under_way}")
        if under_way and not client.metadata.get("takes_under_way"):
            raise InputError("this server takes no frames that are under way: give under_way=0, and the robot holds")
        self.waited_ms: list[float] = []
        self._client, self._most = client, under_way
        self._chunk: np.ndarray | None = None
        self._at = self._first = 0
        self._looks = bool(client.metadata.get("takes_looks"))
        self._told: list[Observation] = []
        self._asked = self._owed = False
        self._out: float | None = None

    def begin(self, prompt: str, observation: Observation, *, seed: int | None = None) -> None:
        """Begins an episode, and waits for its first chunk.

        Args:
            prompt: The instruction.
            observation: What is seen now.
            seed: Of the server's noise.

        Raises:
            RuntimeError, TimeoutError, ValueError: As for `PolicyClient.reset` and `PolicyClient.infer`; no episode has
                begun then, and the one before is over.
        """
        # Before anything can fail: without this episode, nothing of the one before may be executed either.
        self._chunk, self._told, self.waited_ms = None, [], []
        self._asked = self._owed = False
        # The answer to the episode before may still be to come; nobody wants it.
        self._client.drop_answer()
        self._client.reset(prompt, seed=seed)
        self._take(self._client.infer(observation), first=1)

    def next(self, *, wait: bool = True) -> np.ndarray | None:
        """Gives the controls of the next latent frame, float32 [U, N].

        Args:
            wait: False for None where they have not come yet: the robot holds, and asks again.

        Raises:
            RuntimeError: No episode has begun, or it was not told what was seen of the frame before, or the session is
                over; or as for `PolicyClient.infer`.
            TimeoutError: As for `PolicyClient.answer`.
        """
        chunk = self._begun()
        if self._owed:
            raise FailedError("tell what was seen of the frame before: call saw")
        if self._at == chunk.shape[1]:
            self._out = time.perf_counter() if self._out is None else self._out
            following = self._client.answer(wait=wait)
            if following is None:
                return None
            self.waited_ms.append(1000 * (time.perf_counter() - self._out))
            chunk = self._take(following)
        self._at, self._owed = self._at + 1, True
        controls: np.ndarray = chunk[:, self._at - 1].copy()
        return controls

    def saw(self, observations: Sequence[Observation], executed: np.ndarray | None = None) -> None:
        """Tells what was seen while a latent frame was executed; asks for the next chunk when it is time.

        Args:
            observations: As many as the model has pictures a latent frame, oldest first.
            executed: What was really executed, [U, N], where that is not what `next` gave. Of frames that were told as
                under way it comes too late.

        Raises:
            RuntimeError: No frame was given to execute, or the session is over.
            TimeoutError: The server has taken nothing for too long.
            ValueError: What was seen are no observations, or what was executed no controls of a frame; the frame is
                still to be told of.
        """
        chunk = self._begun()
        if not self._owed:
            raise FailedError("no frame was given to execute: call next before")
        told = [*self._told, *as_sent(observations)]
        if executed is not None:
            done, chunk = _controls(executed, of=chunk[:, self._at - 1]), chunk.copy()
            chunk[:, self._at - 1] = done
        left = chunk.shape[1] - self._at
        if not self._asked and left <= min(self._most, chunk.shape[1] - self._first - 1):
            self._client.infer_ahead(told, chunk, under_way=left)
            told, self._asked = [], True
        elif self._looks and told:
            self._client.look(told)
            told = []
        # Only once nothing can be refused any more; what is not sent yet is copied, since a robot may take its next
        # picture into the same memory.
        self._told = [{key: np.array(x) for key, x in one.items()} for one in told]
        self._chunk, self._owed = chunk, False

    def _take(self, chunk: np.ndarray, *, first: int = 0) -> np.ndarray:
        """Goes on with a chunk, whose first frames may be padding."""
        # What came over the wire cannot be written to.
        self._chunk, self._at, self._first = chunk.copy(), first, first
        self._asked, self._out = False, None
        return self._chunk

    def _begun(self) -> np.ndarray:
        self._client.check_open()
        if self._chunk is None:
            raise FailedError("no episode has begun: call begin")
        return self._chunk


def _controls(executed: np.ndarray, *, of: np.ndarray) -> np.ndarray:
    """Checks what was executed in the place of a frame's controls, [U, N]: numpy would spread a smaller array."""
    done = np.asarray(executed)
    if done.shape != of.shape or done.dtype.kind not in "fiu":
        raise InputError(
            f"executed must be a frame's controls, float32 {list(of.shape)}; got {done.dtype} {list(done.shape)}"
        )
    if not np.isfinite(done).all():
        raise InputError("executed must be finite controls: tell what the robot was sent, or leave it out")
    return done
