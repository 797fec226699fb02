# SPDX-License-Identifier: Apache-2.0
"""One websocket of a server, read and written until its client is idle or the server stops."""

import asyncio
from typing import Any

__all__ = ["Connection"]

_GRACE = 5.0


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

    @property
    def address(self) -> str:
        """Its client's, for the log."""
        peer = self.connection.remote_address
        return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else "a client"

    async def close(self, code: int, reason: str) -> None:
        """Ends it, with a code of the websocket protocol."""
        await self.connection.close(code, reason)

    async def receive(self) -> bytes | str | None:
        """The next message; None once the server stops.

        Raises:
            TimeoutError: the session is idle for too long.
        """
        if self.stopping.is_set():
            return None
        coming: asyncio.Future[bytes | str] = asyncio.ensure_future(self.connection.recv())
        try:
            await self._wait(coming)
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

    async def _wait(self, task: asyncio.Future[Any]) -> None:
        """Until a task is done, the session has been idle for too long, or the server stops."""
        stopped = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((task, stopped), timeout=self.idle_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
