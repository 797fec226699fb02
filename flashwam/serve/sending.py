# SPDX-License-Identifier: Apache-2.0
"""Sends a client's messages in a thread of its own, so that a robot never waits for a server that does not read."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

__all__ = ["PATIENCE", "PIECE", "Sender", "in_pieces"]

PIECE = 2**19
"""Bytes of a websocket frame: a long message goes in many, so that one is masked while the server takes in another."""
PATIENCE = 2.0
"""Seconds that a client which closes gives what is still being sent, and then the server's farewell."""


class Sender:
    """The messages of one websocket, sent in the order in which they are given.

    Args:
        connection: Of the package websockets, its synchronous kind; somebody else reads it.

    Attributes:
        failed: The reason why nothing is sent any more, where that is not the end of the connection.
    """

    def __init__(self, connection: Any) -> None:
        self.failed: Exception | None = None
        self._connection = connection
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()
        self._since: float | None = None
        self._over = False
        self._thread = threading.Thread(target=self._run, name="policy client", daemon=True)
        self._thread.start()

    def send(self, message: bytes) -> None:
        """Has a message sent, and returns at once; once the connection has ended it is dropped."""
        if not self._over:
            self._waiting.put(message)

    @property
    def seconds(self) -> float:
        """Seconds that the message at hand has been on its way to the server; 0 where there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def abort(self) -> None:
        """Ends the connection without a farewell; whoever waits for it goes on."""
        self._over = True
        with suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the thread once everything is sent; a server that does not take it is given up, see `PATIENCE`."""
        self._waiting.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self.abort()
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        from websockets.exceptions import ConnectionClosed

        while (message := self._waiting.get()) is not None and not self._over:
            self._since = time.monotonic()
            try:
                self._connection.send(message if len(message) <= PIECE else in_pieces(message))
            except ConnectionClosed:
                # The server's reason is waiting to be read.
                self._over = True
            except Exception as error:
                self.failed = error
                self.abort()
            finally:
                self._since = None


def in_pieces(message: bytes, size: int = PIECE) -> Iterator[memoryview]:
    """Parts a message into those of `size` bytes and a last one, without a copy."""
    view = memoryview(message)
    return (view[start : start + size] for start in range(0, len(view), size))
