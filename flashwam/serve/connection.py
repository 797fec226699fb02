# SPDX-License-Identifier: Apache-2.0
"""One websocket of a server, read and written until its client is idle or the server stops."""

import asyncio
import socket
from typing import Any

__all__ = ["Connection", "watch"]

_GRACE = 5.0
_ARRIVED, _MOST = 0.25, 32
"""Seconds in which a request that has arrived is at hand, and how many of a client are answered, once the server stops.
"""
_PROBES = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 50_000}
"""A peer's machine is asked after so many seconds of silence, then every so many, and is gone after so many questions
or milliseconds without an answer."""


def watch(peer: Any) -> None:
    """Has the system end a connection whose other machine is gone, within a minute and without a word from its program.

    The websocket's own pings would end that of a robot which is still there: while a chunk is computed nothing more of
    it is read, and its answers lie behind the pictures that it has sent.

    Args:
        peer: A TCP socket.
    """
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        # Not every system has all of them.
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Connection:
    """A client's websocket.

    Args:
        connection: Of the package websockets.
        stopping: Set once the server stops.
        idle_seconds: A client that sends nothing, or reads nothing, for so long is given up.
    """

    def __init__(self, connection: Any, *, stopping: asyncio.Event, idle_seconds: float) -> None:
        self.connection = connection
        self.stopping = stopping
        self.idle_seconds = idle_seconds
        self._held: bytes | str | None = None
        self._last = False
        self._left = _MOST

    @property
    def address(self) -> str:
        """Its client's, for the log."""
        peer = self.connection.remote_address
        return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else "a client"

    async def close(self, code: int, reason: str) -> None:
        """Ends it, with a code of the websocket protocol."""
        await self.connection.close(code, reason)

    async def receive(self) -> bytes | str | None:
        """The next message; None once the server stops and has answered those that had arrived.

        Raises:
            TimeoutError: the session is idle for too long.
        """
        held, self._held = self._held, None
        if held is not None or self._last:
            return held
        coming: asyncio.Future[bytes | str] = asyncio.ensure_future(self.connection.recv())
        try:
            await self._wait(coming)
            if not coming.done() and self.stopping.is_set():
                await asyncio.wait((coming,), timeout=_ARRIVED)
            if coming.done():
                return coming.result()
            if self.stopping.is_set():
                return None
            raise TimeoutError
        finally:
            coming.cancel()

    async def send(self, message: bytes | str) -> None:
        """Sends; once the server stops, a client that does not read is waited for only a moment.

        Raises:
            TimeoutError: it does not read.
        """
        await self._hold()
        sending = asyncio.ensure_future(self.connection.send(message))
        try:
            await self._wait(sending)
            if not sending.done() and self.stopping.is_set():
                await asyncio.wait((sending,), timeout=_GRACE)
            if not sending.done():
                raise TimeoutError
            sending.result()
        finally:
            sending.cancel()

    async def _hold(self) -> None:
        """Once the server stops, takes in what was sent before this answer; what follows on it has not arrived."""
        if not self.stopping.is_set() or self._held is not None:
            return
        if not self._left:
            self._last = True
            return
        coming: asyncio.Future[bytes | str] = asyncio.ensure_future(self.connection.recv())
        await asyncio.wait((coming,), timeout=_ARRIVED)
        if coming.done() and coming.exception() is None:
            self._held, self._left = coming.result(), self._left - 1
        else:
            coming.cancel()
            self._last = True

    async def _wait(self, task: asyncio.Future[Any]) -> None:
        """Until a task is done, the session has been idle for too long, or the server stops."""
        stopped = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((task, stopped), timeout=self.idle_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
