# SPDX-License-Identifier: Apache-2.0
"""The policy server: one session per connection, weights shared, one request computed at a time.

A request that cannot be answered gets a text frame that names the error, then close code 1011; other sessions notice
nothing. Where the model drew what no robot may do, or a prompt is too long or cannot be embedded, the text frame comes
alone, as for requests that were sent before that was known, and the session can be reset. Inference runs in a single
worker thread, so that the event loop stays free for health checks and time-outs; prompts are embedded in another, so
that a slow text encoder holds up no other session's chunks.
"""

import asyncio
import hmac
import http
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from typing import Any

from flashwam.core.checks import UnsoundError
from flashwam.serve.answers import answer, log_failure, stands, told
from flashwam.serve.connection import Connection, watch
from flashwam.serve.latency import LatencyLog
from flashwam.serve.model import ServedModel
from flashwam.serve.openpi import OpenPISession, action_horizon, camera_keys
from flashwam.serve.options import ServerOptions
from flashwam.serve.protocol import pack
from flashwam.serve.session import PolicySession
from flashwam.serve.warm_up import warm_up
from flashwam.system.errors import MissingPackageError

__all__ = ["PolicyServer", "serve", "serving"]

logger = logging.getLogger(__name__)

_SCHEMES = ("Bearer", "Api-Key")
_INTERNAL_ERROR, _GOING_AWAY, _POLICY_VIOLATION, _TRY_LATER = 1011, 1001, 1008, 1013


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
        self._sessions = self._make_sessions()
        self._greeting = pack(self._told())
        self._open = 0
        self._served = 0
        self._failed = self._failed_requests = 0
        self._unsound = 0
        self._worker: ThreadPoolExecutor | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._opening: set[asyncio.Transport] = set()
        self._asked = False

    @property
    def url(self) -> str:
        """Address at which clients connect."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"ws://{host}:{self.port}"

    def stop(self) -> None:
        """Ends `run` from any thread: nobody is let in any more, and sessions are closed with code 1001; one whose
        request has arrived is answered first."""
        self._asked = True
        if self._loop is not None:
            # A loop that is closed has stopped.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def run(self, *, started: threading.Event | None = None) -> None:
        """Warms up, then listens until `stop`.

        Args:
            started: Set once connections are accepted and `port` is known.

        Raises:
            OSError: the address cannot be had.
            ValueError: it is none.
        """
        self.options.check_host()
        listen, connection_class = _websockets_serve(), _connection_class(self)
        options = self.options
        self._loop = asyncio.get_running_loop()
        if self._asked:
            self._stopping.set()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        try:
            ready = partial(warm_up, self.model, sessions=options.max_sessions, stopped=self._stopping.is_set)
            await self._loop.run_in_executor(self._worker, ready)
            async with listen(
                self._connection,
                options.host,
                options.port,
                process_request=self._http,
                create_connection=connection_class,
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
                # Every session closes itself between two requests; who has not opened one has nothing to wait for.
                listening.close(close_connections=False)
                for transport in tuple(self._opening):
                    transport.abort()
                await listening.wait_closed()
        finally:
            self._reader.shutdown(wait=True)
            self._worker.shutdown(wait=True)
        for line in self.latency.lines():
            logger.info("all sessions  %s", line)

    def metrics(self) -> dict[str, Any]:
        """Sessions and latency so far, as GET /metrics answers them; a session has failed in which a request did."""
        return {
            "sessions": {"open": self._open, "served": self._served, "failed": self._failed},
            "failed_requests": self._failed_requests,
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
        given = headers[0].encode("utf-8", "replace") if len(headers) == 1 else b""
        known = [hmac.compare_digest(given, f"{scheme} {self.options.token}".encode()) for scheme in _SCHEMES]
        return any(known)

    async def _connection(self, websocket: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        self._opening.discard(websocket.transport)
        idle = self.options.idle_seconds
        connection = Connection(websocket, stopping=self._stopping, idle_seconds=idle)
        if self._open >= self.options.max_sessions:
            await connection.close(_TRY_LATER, f"all {self.options.max_sessions} sessions are taken")
            return
        self._open += 1
        self._served += 1
        name = f"session {self._served}"
        own = LatencyLog()
        logger.info("%s opened by %s", name, connection.address)
        try:
            await connection.send(self._greeting)
            await self._requests(connection, name, own)
        except ConnectionClosed as error:
            logger.info("%s closed: %s", name, error)
        except TimeoutError:
            logger.info("%s closed: nothing for %g s", name, idle)
            await connection.close(_POLICY_VIOLATION, f"idle for {idle:g} s")
        finally:
            self._open -= 1
            for line in own.lines():
                logger.info("%s  %s", name, line)

    def _told(self) -> dict[str, Any]:
        """The greeting: what a client is told of the model, and how it is talked to."""
        protocol = self.options.protocol
        told = {**self.model.metadata, "protocol": protocol}
        return {**told, "action_horizon": action_horizon(self.model)} if protocol == "openpi" else told

    def _make_sessions(self) -> Callable[[], PolicySession | OpenPISession]:
        """The maker of what answers a connection."""
        most = self.options.max_prompt_characters
        if self.options.protocol == "openpi":
            keys = camera_keys(list(self.model.metadata.get("cameras", ())), self.options.cameras)
            return partial(OpenPISession, self.model, keys=keys, most_prompt=most)
        return partial(PolicySession, self.model, most_prompt=most)

    async def _requests(self, connection: Connection, name: str, own: LatencyLog) -> None:
        session = self._sessions()
        loop = asyncio.get_running_loop()
        previous: float | None = None
        failed = False
        while (message := await connection.receive()) is not None:
            arrived = time.perf_counter()
            try:
                first = partial(answer, session, message, arrived, previous, defer=True)
                reply_or_more = await loop.run_in_executor(self._worker, first)
                if callable(reply_or_more):
                    reply_or_more = await loop.run_in_executor(self._reader, reply_or_more)
                kind, reply, stages = reply_or_more
            except Exception as error:
                self._failed += not failed
                self._failed_requests += 1
                failed = True
                self._unsound += isinstance(error, UnsoundError)
                log_failure(name, error)
                await connection.send(told(error))
                if stands(session, error):
                    continue
                await connection.close(_INTERNAL_ERROR, "the request failed")
                return
            await connection.send(reply)
            previous = 1000 * (time.perf_counter() - arrived)
            stages["total"] = previous
            own.add(kind, stages)
            self.latency.add(kind, stages)
        await connection.close(_GOING_AWAY, "the server stops")

    def _accepted(self, transport: asyncio.Transport) -> None:
        """A connection that has not shaken hands yet."""
        self._opening.add(transport)
        if self._stopping.is_set():
            transport.abort()


def serve(model: ServedModel, options: ServerOptions | None = None) -> None:
    """Serves until SIGINT or SIGTERM, see `PolicyServer.stop`; a second signal ends the process at once, whatever it is
    computing."""
    server = PolicyServer(model, options)
    asked = False

    def stop(number: int, _: Any) -> None:
        nonlocal asked
        if asked:
            _end_at_once(number)
        asked = True
        server.stop()

    # Not the loop's own handlers, which would wait for what the loop waits for.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(server.run())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_once(number: int) -> None:
    """Ends this process by a signal, as one that has no handler for it."""
    for stream in (sys.stdout, sys.stderr):
        # It may be closed, or in the middle of a write.
        with suppress(Exception):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


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
    try:
        # An interruption, even of this, finds a server that can be told to stop.
        thread.start()
        started.wait()
        if failed:
            raise failed[0]
        yield server
    finally:
        server.stop()
        if thread.is_alive():
            thread.join()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _connection_class(server: PolicyServer) -> Any:
    """Connections that the server knows of before they have shaken hands."""
    from websockets.asyncio.server import ServerConnection

    class Known(ServerConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            watch(transport.get_extra_info("socket"))
            server._accepted(self.transport)

        def connection_lost(self, exc: Exception | None) -> None:
            server._opening.discard(self.transport)
            super().connection_lost(exc)

    return Known


def _websockets_serve() -> Any:
    try:
        from websockets.asyncio.server import serve as listen
    except ImportError as error:
        raise MissingPackageError("the server needs websockets: pip install 'flashwam[serve]'") from error
    return listen
