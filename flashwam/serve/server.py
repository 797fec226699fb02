# SPDX-License-Identifier: Apache-2.0
"""The policy server: one session per connection, weights shared, one request computed at a time.

A request that cannot be answered gets a text frame that names the error, then close code 1011; other sessions notice
nothing. Where the model drew what no robot may do, the text frame comes alone, and the session can be reset. Inference
runs in a single worker thread, so that the event loop stays free for health checks and time-outs.
"""

import asyncio
import hmac
import http
import json
import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from flashwam.core.checks import UnsoundError
from flashwam.serve.latency import LatencyLog
from flashwam.serve.policy import PolicySession, ServedModel
from flashwam.serve.protocol import pack, unpack

__all__ = ["PolicyServer", "ServerOptions", "serve", "serving"]

logger = logging.getLogger(__name__)

DEFAULT_PORT = 29536
"""LingBot-VA's own."""

_INTERNAL_ERROR, _GOING_AWAY, _POLICY_VIOLATION, _TRY_LATER = 1011, 1001, 1008, 1013
_PATH = re.compile(r"(?<!\w)(?:[A-Za-z]:)?[\\/](?:[^\s'\"\\/:]+[\\/])*[^\s'\"\\/:]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the server listens.

    Args:
        host: Address; only this machine reaches the default.
        port: 0 takes a free one.
        token: What a client must send as "Authorization: Bearer <token>"; None admits everyone who connects.
        max_message_bytes: Longer messages end their session.
        idle_seconds: A session that sends nothing for so long is ended.
        max_sessions: Further connections are turned away.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str | None = None
    max_message_bytes: int = 128 * 2**20
    idle_seconds: float = 600.0
    max_sessions: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port must be 0 to 65535; got {self.port}")
        for key in ("max_message_bytes", "idle_seconds", "max_sessions"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} must be positive; got {getattr(self, key)}")
        if self.token is not None and (not self.token.isascii() or not self.token or " " in self.token):
            raise ValueError("token must be ASCII text without spaces, and not empty")


class PolicyServer:
    """Serves a model until `stop` is called.

    Args:
        model: What is served.
        options: How.
    """

    def __init__(self, model: ServedModel, options: ServerOptions | None = None) -> None:
        self.model = model
        self.options = options or ServerOptions()
        self.latency = LatencyLog()
        self.port: int | None = None
        self._greeting = pack(dict(model.metadata))
        self._open = 0
        self._served = 0
        self._failed = 0
        self._unsound = 0
        self._worker: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"ws://{host}:{self.port}"

    def stop(self) -> None:
        """Ends `run` from any thread: sessions are closed with code 1001, a request in work is finished first."""
        if self._loop is not None and self._stopping is not None:
            # A loop that is closed has stopped.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def run(self, *, started: threading.Event | None = None) -> None:
        """Listens until `stop`.

        Args:
            started: Set once connections are accepted and `port` is known.

        Raises:
            OSError: the address cannot be had.
        """
        listen = _websockets_serve()
        options = self.options
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="inference")
        try:
            async with listen(
                self._connection,
                options.host,
                options.port,
                process_request=self._http,
                # A page in a browser names its origin; robots and simulators do not.
                origins=[None],
                compression=None,
                max_size=options.max_message_bytes,
                max_queue=1,
                ping_interval=None,
                close_timeout=5,
                server_header=None,
            ) as listening:
                self.port = listening.sockets[0].getsockname()[1]
                if options.token is None and not _is_loopback(options.host):
                    logger.warning("everyone who reaches %s can use this server: set a token", self.url)
                logger.info("serving %s at %s", self.model.metadata.get("name", "a model"), self.url)
                if started is not None:
                    started.set()
                await self._stopping.wait()
                logger.info("stopping: %d session(s) open", self._open)
        finally:
            self._worker.shutdown(wait=True)
        for line in self.latency.lines():
            logger.info("all sessions  %s", line)

    def metrics(self) -> dict[str, Any]:
        """Sessions and latency so far, as GET /metrics answers them."""
        return {
            "sessions": {"open": self._open, "served": self._served, "failed": self._failed},
            "unsound_chunks": self._unsound,
            "latency": self.latency.summary(),
            "model": dict(self.model.metadata),
        }

    def _http(self, connection: Any, request: Any) -> Any:
        """Answers plain GETs and turns unauthorised clients away; None lets the websocket open."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not self._authorised(request.headers.get_all("Authorization")):
            response = connection.respond(http.HTTPStatus.UNAUTHORIZED, "this server needs its token\n")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if path == "/metrics":
            response = connection.respond(http.HTTPStatus.OK, json.dumps(self.metrics()) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        return None

    def _authorised(self, headers: list[str]) -> bool:
        if self.options.token is None:
            return True
        expected = f"Bearer {self.options.token}".encode()
        given = headers[0].encode("utf-8", "replace") if len(headers) == 1 else b""
        return hmac.compare_digest(given, expected)

    async def _connection(self, connection: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        if self._open >= self.options.max_sessions:
            await connection.close(_TRY_LATER, f"all {self.options.max_sessions} sessions are taken")
            return
        self._open += 1
        self._served += 1
        name = f"session {self._served}"
        own = LatencyLog()
        logger.info("%s opened by %s", name, _address(connection))
        try:
            await self._send(connection, self._greeting)
            await self._requests(connection, name, own)
        except ConnectionClosed as error:
            logger.info("%s closed: %s", name, error)
        except TimeoutError:
            logger.info("%s closed: nothing for %g s", name, self.options.idle_seconds)
            await connection.close(_POLICY_VIOLATION, f"idle for {self.options.idle_seconds:g} s")
        finally:
            self._open -= 1
            for line in own.lines():
                logger.info("%s  %s", name, line)

    async def _requests(self, connection: Any, name: str, own: LatencyLog) -> None:
        session = PolicySession(self.model)
        loop = asyncio.get_running_loop()
        previous: float | None = None
        while True:
            message = await asyncio.wait_for(connection.recv(), self.options.idle_seconds)
            arrived = time.perf_counter()
            try:
                kind, reply, stages = await loop.run_in_executor(
                    self._worker, _answer, session, message, arrived, previous
                )
            except Exception as error:
                self._failed += 1
                self._unsound += isinstance(error, UnsoundError)
                _log_failure(name, error)
                await self._send(connection, _told(error))
                if isinstance(error, UnsoundError):
                    continue
                await connection.close(_INTERNAL_ERROR, "the request failed")
                return
            await self._send(connection, reply)
            previous = 1000 * (time.perf_counter() - arrived)
            stages["total"] = previous
            own.add(kind, stages)
            self.latency.add(kind, stages)

    async def _send(self, connection: Any, message: bytes | str) -> None:
        await asyncio.wait_for(connection.send(message), self.options.idle_seconds)


def serve(model: ServedModel, options: ServerOptions | None = None) -> None:
    """Serves until SIGINT or SIGTERM; a second signal ends the process at once."""
    server = PolicyServer(model, options)

    async def until_signalled() -> None:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)

        def stop() -> None:
            for number in signals:
                loop.remove_signal_handler(number)
            server.stop()

        for number in signals:
            loop.add_signal_handler(number, stop)
        await server.run()

    asyncio.run(until_signalled())


@contextmanager
def serving(model: ServedModel, options: ServerOptions | None = None) -> Iterator[PolicyServer]:
    """A server in a thread of this process, for tests and notebooks; port 0 unless told otherwise."""
    server = PolicyServer(model, options or ServerOptions(port=0))
    started, failed = threading.Event(), []

    def run() -> None:
        try:
            asyncio.run(server.run(started=started))
        except BaseException as error:
            failed.append(error)
            started.set()

    thread = threading.Thread(target=run, name="policy server", daemon=True)
    thread.start()
    started.wait()
    try:
        if failed:
            raise failed[0]
        yield server
    finally:
        server.stop()
        thread.join()


def _answer(
    session: PolicySession, message: bytes | str, arrived: float, previous: float | None
) -> tuple[str, bytes, dict[str, float]]:
    """Runs in the worker: one message to one reply."""
    start = time.perf_counter()
    if isinstance(message, str):
        raise ValueError("requests are binary msgpack messages; got a text frame")
    request = unpack(message)
    decoded = time.perf_counter()
    kind, reply = session.handle(request)
    timing = {"infer_ms": 1000 * (time.perf_counter() - decoded)}
    if previous is not None:
        timing["prev_total_ms"] = previous
    stages = {"decode": 1000 * (decoded - start), "wait": 1000 * (start - arrived), **session.stages}
    return kind, pack({**reply, "server_timing": timing}), stages


def _told(error: Exception) -> str:
    """What a client may know of an error: the sender's own mistakes, without this machine's paths."""
    if isinstance(error, (ValueError, TypeError)):
        return f"{type(error).__name__}: {_PATH.sub('<path>', str(error))}"
    return f"{type(error).__name__}: the server failed; its log says why"


def _log_failure(name: str, error: Exception) -> None:
    if isinstance(error, UnsoundError):
        logger.error("%s: nothing was sent: %s", name, error)
    elif isinstance(error, (ValueError, TypeError)):
        logger.info("%s failed: %s", name, error)
        logger.debug("%s failed", name, exc_info=error)
    else:
        logger.error("%s failed", name, exc_info=error)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(connection: Any) -> str:
    peer = connection.remote_address
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else "a client"


def _websockets_serve() -> Any:
    try:
        from websockets.asyncio.server import serve as listen
    except ImportError as error:
        raise ImportError("the server needs websockets: pip install 'flashwam[serve]'") from error
    return listen
