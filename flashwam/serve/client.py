# SPDX-License-Identifier: Apache-2.0
"""Talks to a policy server.

Letters: F latent frames of a chunk, N actions per latent frame, U controls.
"""

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashwam.serve.access import check_token
from flashwam.serve.protocol import pack, unpack
from flashwam.serve.reaching import reach
from flashwam.serve.sending import Sender
from flashwam.system.errors import FailedError, InputError, MissingPackageError
from flashwam.system.json_file import shown

__all__ = [
    "PolicyClient",
    "as_sent",
    "controls_between_pictures",
    "greeted_cameras",
    "greeted_number",
]

Observation = Mapping[str, np.ndarray]
_PROTOCOL = "lingbot_va"
_GRACE = 0.05
"""Seconds in which an answer that has come to this machine must be at hand, although it is late."""


def controls_between_pictures(greeting: Mapping[str, Any]) -> int:
    """Counts the controls from one picture that a model is shown to the next.

    Args:
        greeting: What its server tells of it.

    Raises:
        ValueError: It does not tell, or pictures do not lie evenly between the controls.
    """
    controls, pictures = (greeted_number(greeting, name) for name in ("actions_per_frame", "keyframes_per_frame"))
    if controls % pictures:
        raise InputError(f"{controls} actions a latent frame do not lie evenly between {pictures} pictures")
    return controls // pictures


def greeted_number(greeting: Mapping[str, Any], name: str) -> int:
    """Reads a number of at least 1 from what a server tells of its model.

    Raises:
        ValueError: It does not tell.
    """
    value = greeting.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(
            f"the server does not say its {name}, so nobody knows which pictures it is to be shown; expected a whole "
            f"number in its greeting, got {value!r}"
        )
    return value


def greeted_cameras(greeting: Mapping[str, Any]) -> tuple[str, ...]:
    """Reads the cameras that a server's model is shown.

    Raises:
        ValueError: It does not tell.
    """
    cameras = greeting.get("cameras")
    if not isinstance(cameras, list | tuple) or not cameras or not all(isinstance(name, str) for name in cameras):
        raise InputError(
            f"the server does not say its cameras, so nobody knows which pictures it is to be shown; expected a list "
            f"of names in its greeting, got {shown(cameras)}"
        )
    return tuple(cameras)


class PolicyClient:
    """One session with a server; a context manager. docs/real_time.md has a robot's loop with it.

    Args:
        url: Such as "ws://127.0.0.1:29536". A proxy of the environment stands between where the host is neither this
            machine nor one of its own network.
        token: Where the server asks for one.
        timeout: Seconds that the server has for each reply, from when it was asked for or the one before came; None is
            for ever. Once they are over, the next call that sends or waits, or asks whether a chunk has come, raises
            TimeoutError, and the session is over. However it ends, such a call raises RuntimeError from then on.

    Attributes:
        metadata: What the server tells of its model.
        timing: `server_timing` of the latest reply, in milliseconds.

    Raises:
        ImportError: websockets is not installed, or what it needs for a proxy.
        OSError: nobody answers at `url`.
        ValueError: it is no address, or the token none.
        RuntimeError: the server refuses the connection.
        TimeoutError: it does not greet in time.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float | None = 600.0) -> None:
        try:
            from websockets.exceptions import ConnectionClosed
        except ImportError as error:
            raise MissingPackageError("a client needs websockets: pip install 'flashwam[serve]'") from error
        headers = None if token is None else {"Authorization": f"Bearer {check_token(token)}"}
        self._url = url
        self._timeout = timeout
        self._closed = ConnectionClosed
        self.timing: dict[str, float] = {}
        # Requests whose replies are still to come and when they were made, oldest first.
        self._asked: deque[tuple[str, float]] = deque()
        self._heard = time.monotonic()
        # What ended the session; None while nothing has.
        self._ended: str | None = None
        # A chunk of infer_ahead's is to come, as far as is known.
        self._ahead = False
        self._connection = reach(url, headers)
        self._sender = Sender(self._connection)
        try:
            self.metadata = self._greeted()
        except BaseException:
            self.close()
            raise

    def _greeted(self) -> dict[str, Any]:
        """Reads the greeting; refuses one that is another protocol's."""
        greeting = self._receive()
        if not isinstance(greeting, dict):
            raise FailedError(f"{self._url} must greet with a map; got {type(greeting).__name__}")
        protocol = greeting.get("protocol", _PROTOCOL)
        if protocol != _PROTOCOL:
            raise FailedError(
                f"{self._url} speaks {shown(protocol)} as its protocol, and this client LingBot-VA's: serve the model "
                "without --protocol openpi"
            )
        return greeting

    def reset(self, prompt: str, *, seed: int | None = None) -> None:
        """Begins an episode; `seed` fixes the server's noise.

        Raises:
            RuntimeError: the server cannot begin it: the session stands where the prompt alone is the reason.
        """
        self._ask({"reset": True, "prompt": prompt} | ({} if seed is None else {"seed": seed}), "reset")

    def infer(self, observation: Observation | None = None) -> np.ndarray:
        """Draws the next chunk.

        Args:
            observation: Camera name -> uint8 [height, width, 3]; needed by the first chunk of an episode alone.

        Returns:
            Controls, float32 [U, F, N]; in the first chunk, frame 0 is padding.

        Raises:
            RuntimeError: the server has none that a robot may execute, or sends something else. Where it has drawn
                nonsense the session stands and can be reset; otherwise it is over.
        """
        asked = self._ask({} if observation is None else {"obs": dict(observation)}, "infer")
        return self._controls(asked.get("action"))

    def infer_ahead(self, observations: Sequence[Observation], state: np.ndarray, *, under_way: int = 0) -> None:
        """Sends what `refresh` does and asks for the next chunk, and returns at once; `answer` gives that chunk.

        What is sent is copied, and goes in a thread of its own, so that nobody waits for a server that is busy.

        Raises:
            TimeoutError: the server has taken nothing for too long.
            ValueError: the server is of another kind, and takes no frames under way.
        """
        self._send("refresh", self._told(observations, state, under_way))
        self._send("infer", {})
        self._ahead = True

    def answer(self, *, wait: bool = True) -> np.ndarray | None:
        """Gives the chunk that `infer_ahead` has asked for, as `infer` does.

        Args:
            wait: False for None where it has not come yet.

        Raises:
            RuntimeError: nothing was asked for, or as for `infer`.
            TimeoutError: it has not come in time, whether it is waited for or not.
        """
        self.check_open()
        if not self._awaits("infer"):
            raise FailedError("no chunk was asked for: call infer_ahead before")
        while self._asked[0][0] != "infer":
            if self._reply(wait=wait) is None:
                return None
        reply = self._reply(wait=wait)
        return None if reply is None else self._controls(reply.get("action"))

    def _controls(self, action: Any) -> np.ndarray:
        """Checks controls that came from a server; refuses what may not be executed."""
        told = [self.metadata.get(key) for key in ("controls", "chunk_frames", "actions_per_frame")]
        expected = f"float32 [{', '.join(str(n) if n is not None else '*' for n in told)}]"
        fits = isinstance(action, np.ndarray) and action.dtype == np.float32 and action.ndim == 3 and action.size > 0
        if fits:
            controls, frames, per_frame = action.shape
            # A model may execute fewer frames than it draws.
            fits = told[0] in (None, controls) and told[2] in (None, per_frame) and frames <= (told[1] or frames)
        if not fits:
            got = f"{action.dtype} {list(action.shape)}" if isinstance(action, np.ndarray) else type(action).__name__
            raise FailedError(f"{self._url} must send controls, {expected}; got {got}: nothing of it may be executed")
        bad = np.argwhere(~np.isfinite(action))
        if len(bad):
            control, frame, step = bad[0].tolist()
            raise FailedError(
                f"{self._url} sent a control that is not finite: control {control}, frame {frame}, step {step} is "
                f"{action[control, frame, step]}; nothing of the chunk may be executed"
            )
        sound: np.ndarray = action
        return sound

    def drop_answer(self) -> None:
        """Waits for what `infer_ahead` has asked for and forgets it, whatever it is; does nothing where nothing was."""
        while self._asked:
            # A message that cannot be read is a ValueError.
            with contextlib.suppress(FailedError, ValueError):
                self._reply()

    def look(self, observations: Sequence[Observation], *, wait: bool = False) -> None:
        """Sends what is seen of a chunk as soon as it is, so that the server has encoded it when the chunk ends.

        What is sent is copied, and goes in a thread of its own, so that nobody waits for a server that is busy.

        Args:
            observations: What was seen since the last call of this, of `refresh` or of `infer_ahead`, oldest first; the
                next of those two does not repeat it.
            wait: Until the server has taken it. Otherwise a failure shows in the next call that waits for an answer.

        Raises:
            TimeoutError: the server has taken nothing for too long.
            ValueError: the server is of another kind, and takes pictures with `refresh` alone.
            RuntimeError: a chunk was asked for ahead, whose answer comes before this one's and has not been taken.
        """
        if not self.metadata.get("takes_looks"):
            raise InputError(f"the server at {self._url} takes pictures with refresh alone: send them then")
        if wait and self._ahead:
            raise FailedError("a chunk was asked for ahead: take its answer before waiting for what is seen")
        self._send("look", {"look": True, "obs": as_sent(observations)})
        while wait and self._awaits("look"):
            self._reply()

    def refresh(self, observations: Sequence[Observation], state: np.ndarray, *, under_way: int = 0) -> None:
        """Tells what happened.

        Args:
            observations: What was seen since the last call, oldest first.
            state: The controls that were executed, or will have been, [U, F, N]; in the first chunk, frame 0 is
                padding.
            under_way: Last of the frames that are not executed yet, fewer than all; what is seen of them comes with the
                next call.

        Raises:
            ValueError: the server is of another kind, and takes no frames under way.
        """
        self._ask(self._told(observations, state, under_way), "refresh")

    def _told(self, observations: Sequence[Observation], state: np.ndarray, under_way: int) -> dict[str, Any]:
        if under_way and not self.metadata.get("takes_under_way"):
            raise InputError(
                f"the server at {self._url} takes no frames that are under way, as one of an earlier version of "
                "flashwam, or of a model that never draws what will be seen: let the robot hold while it computes"
            )
        told = {"obs": as_sent(observations), "compute_kv_cache": True, "imagine": False, "state": state}
        return {**told, "under_way": under_way} if under_way else told

    def check_open(self) -> None:
        """Checks that nothing is known to have ended the session.

        Raises:
            RuntimeError: it is over.
        """
        if self._ended is not None:
            raise FailedError(self._ended)

    def close(self) -> None:
        """Ends the session, once what was asked for is sent; a server that takes it too slowly is given up."""
        self._end(f"this client has ended the session with {self._url}: it was closed; connect anew")
        self._sender.close()
        self._connection.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], kind: str) -> dict[str, Any]:
        if self._ahead:
            raise FailedError("a chunk was asked for ahead: take its answer before the next request")
        self._send(kind, request)
        before: FailedError | None = None
        while len(self._asked) > 1:
            try:
                self._reply()
            except FailedError as error:
                if kind != "reset":
                    raise
                # An episode that is over has no requests; but it may be why the session is over.
                before = before or error
        try:
            reply = self._reply()
        except FailedError as error:
            raise (before if before is not None and self._ended is not None else error) from error
        if reply is None:
            raise AssertionError("a reply that is waited for comes or fails")
        return reply

    def _awaits(self, kind: str) -> bool:
        return any(asked == kind for asked, _ in self._asked)

    def _send(self, kind: str, request: dict[str, Any]) -> None:
        self.check_open()
        if self._timeout is not None and self._sender.seconds > self._timeout:
            raise self._given_up()
        self._sender.send(pack(request))
        self._asked.append((kind, time.monotonic()))

    def _reply(self, *, wait: bool = True) -> dict[str, Any] | None:
        """The oldest reply that is awaited; None where it is not waited for and has not come."""
        reply = self._receive(wait=wait)
        if reply is None:
            return None
        if not isinstance(reply, dict):
            raise FailedError(f"{self._url} must answer with a map; got {type(reply).__name__}")
        self.timing = reply.get("server_timing", {})
        return reply

    def _receive(self, *, wait: bool = True) -> Any:
        self.check_open()
        left = self._left()
        late = left is not None and left <= 0
        try:
            message = self._connection.recv(_GRACE if late else left if wait else 0)
        except self._closed as error:
            why = self._sender.failed or error
            raise FailedError(self._end(f"{self._url} ended the session: {why}")) from why
        except TimeoutError as error:
            if not wait and not late:
                return None
            raise self._given_up() from error
        self._heard = time.monotonic()
        # The greeting answers nothing; a text frame answers a request too.
        answered = self._asked.popleft()[0] if self._asked else None
        if answered == "infer" or isinstance(message, str):
            # Where an earlier request has failed, what was asked after it may never be answered.
            self._ahead = False
        if isinstance(message, str):
            raise FailedError(f"{self._url} could not answer: {message}")
        return unpack(message)

    def _left(self) -> float | None:
        """Gives the seconds in which the oldest reply that is awaited may still come."""
        if self._timeout is None:
            return None
        asked = self._asked[0][1] if self._asked else self._heard
        return self._timeout - (time.monotonic() - max(asked, self._heard))

    def _given_up(self) -> TimeoutError:
        """Ends the session with a server that takes or answers nothing, and words that."""
        self._sender.abort()
        late = f"answered within {self._timeout:g} s"
        self._end(f"this client has ended the session with {self._url}, which had not {late}; connect anew")
        return TimeoutError(f"{self._url} has not {late}")

    def _end(self, why: str) -> str:
        """Ends the session for what comes, and forgets what was asked for; gives what ended it first."""
        self._ended = self._ended or why
        self._asked.clear()
        self._ahead = False
        return self._ended


def as_sent(observations: Sequence[Observation]) -> list[dict[str, np.ndarray]]:
    """Makes of observations what is sent; refuses what are no maps in a sequence."""
    seen = None if isinstance(observations, Mapping) else list(observations)
    if seen is None or not all(isinstance(one, Mapping) for one in seen):
        raise InputError("observations must be maps from camera to picture, in a list, be it of one alone")
    return [dict(observation) for observation in seen]
