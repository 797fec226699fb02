# SPDX-License-Identifier: Apache-2.0
"""Answers of the policy server: one message to one reply, and the words for a client whose request failed."""

import logging
import re
import time
from collections.abc import Callable

from flashwam.core.checks import UnsoundError
from flashwam.serve.openpi import OpenPISession
from flashwam.serve.protocol import pack, read
from flashwam.serve.session import EpisodeOverError, LongPromptError, PolicySession
from flashwam.system.errors import UserError

__all__ = ["answer", "log_failure", "stands", "told"]

logger = logging.getLogger(__name__)

_LONGEST_TEXT = 1000
_PATH = re.compile(r"(?<!\w)(?:[A-Za-z]:)?[\\/](?:[^\s'\"\\/:]+[\\/])*[^\s'\"\\/:]+")

Answer = tuple[str, bytes, dict[str, float]]


def answer(
    session: PolicySession | OpenPISession,
    message: bytes | str,
    arrived: float,
    previous: float | None,
    *,
    defer: bool = False,
) -> Answer | Callable[[], Answer]:
    """Runs in the worker: one message to one reply; with `defer`, to what makes it where a prompt is to be embedded."""
    start = time.perf_counter()
    if isinstance(message, str):
        raise ValueError("requests are binary msgpack messages; got a text frame")
    request, dialect = read(message)
    session.dialect = dialect or session.dialect
    decoded = time.perf_counter()

    def handled() -> Answer:
        begun = time.perf_counter()
        kind, reply = session.handle(request)
        timing = {"infer_ms": 1000 * (time.perf_counter() - begun)}
        if previous is not None:
            timing["prev_total_ms"] = previous
        waited = start - arrived + begun - decoded
        stages = {"decode": 1000 * (decoded - start), "wait": 1000 * waited, **session.stages}
        return kind, pack({**reply, "server_timing": timing}, dialect=session.dialect), stages

    return handled if defer and session.begins(request) else handled()


def told(error: Exception) -> str:
    """Words an error for a client: the sender's own mistakes and what a user can mend, without this machine's paths."""
    if isinstance(error, (ValueError, TypeError, UserError)):
        # Clients know the built-in error alone. What they sent may be quoted at any length.
        builtin = (kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        name = (next(builtin) if type(error).__module__ == UserError.__module__ else type(error)).__name__
        return f"{name}: {_PATH.sub('<path>', str(error)[:_LONGEST_TEXT])}"
    return f"{type(error).__name__}: the server failed; its log says why"


def stands(session: PolicySession | OpenPISession, error: Exception) -> bool:
    """Tells whether a session may be reset after a request that was not answered.

    Args:
        session: Whose request it was.
        error: Why it was not answered.
    """
    return isinstance(error, (UnsoundError, LongPromptError, EpisodeOverError)) or (
        isinstance(error, UserError) and session.refused
    )


def log_failure(name: str, error: Exception) -> None:
    """Logs why a request of a session was not answered, as loudly as it matters."""
    if isinstance(error, UnsoundError):
        logger.error("%s: nothing was sent: %s", name, error)
    elif isinstance(error, (ValueError, TypeError)):
        logger.info("%s failed: %s", name, str(error)[:_LONGEST_TEXT])
        logger.debug("%s failed", name, exc_info=error)
    elif isinstance(error, UserError):
        logger.error("%s failed: %s", name, error)
        logger.debug("%s failed", name, exc_info=error)
    else:
        logger.error("%s failed", name, exc_info=error)
