# SPDX-License-Identifier: Apache-2.0
"""Opens a client's connection, past a proxy where the server is near, and names the proxy where one stands between."""

import ipaddress
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from flashwam.serve.sending import PATIENCE
from flashwam.system.errors import FailedError, InputError, MissingPackageError

__all__ = ["is_near", "reach"]

_NEAR = ("localhost", "local")
"""Last parts of names that no other network knows."""


def reach(url: str, headers: dict[str, str] | None) -> Any:
    """Connects to a policy server, by the proxy of the environment where the server is not near.

    Args:
        url: Such as "ws://127.0.0.1:29536".
        headers: Of the request beside websockets' own.

    Returns:
        A connection of the package websockets, its synchronous kind.

    Raises:
        ImportError: The proxy is one of SOCKS, for which websockets needs another package.
        OSError: Nobody answers at `url`, or the proxy does not.
        RuntimeError: The server or the proxy refuses the connection.
        ValueError: It is no address, or the proxy none.
    """
    from websockets.exceptions import InvalidHandshake, InvalidProxy, InvalidURI
    from websockets.sync.client import connect

    between = ""
    try:
        near = is_near(urlsplit(url).hostname or "")
        between = "" if near else _told(_proxy(url))
        return connect(
            url,
            additional_headers=headers,
            open_timeout=10,
            compression=None,
            max_size=None,
            ping_interval=None,
            close_timeout=PATIENCE,
            # True is websockets' own rule, by the environment.
            proxy=None if near else True,
        )
    except InvalidHandshake as error:
        raise FailedError(f"{url} refused the connection{between}: {error}") from error
    except OSError as error:
        start = "see that the proxy lets it pass, and start one" if between else "start one"
        message = f"no policy server answers at {url}{between} ({error}); {start}: flashwam serve"
        raise ConnectionError(message) from error
    except ImportError as error:
        raise MissingPackageError(f"{url} cannot be reached{between}: {error}") from error
    except InvalidProxy as error:
        # Its own words would tell a password.
        raise InputError(f"{url} cannot be reached{between}, which is no address of a proxy") from error
    # A port or host that cannot be is Python's own error.
    except (InvalidURI, ValueError) as error:
        raise InputError(f"a server's address reads like ws://127.0.0.1:29536; got {url!r} ({error})") from error


def is_near(host: str) -> bool:
    """Tells whether a host is this machine or one of its own network, of which a proxy knows nothing.

    Args:
        host: A name or a number, an IPv6 one without brackets.
    """
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".")
        return "." not in name or name.rpartition(".")[2].lower() in _NEAR


def _proxy(url: str) -> str | None:
    """The proxy that websockets takes for an address, by the environment; None where it takes none."""
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    if urllib.request.proxy_bypass(f"{parts.hostname}:{parts.port or (443 if secure else 80)}"):
        return None
    proxies = urllib.request.getproxies()
    schemes = ("wss", "socks", "https") if secure else ("ws", "socks", "https", "http")
    return next((proxies[scheme] for scheme in schemes if scheme in proxies), None)


def _told(proxy: str | None) -> str:
    """Words for a proxy in the middle of a sentence, without its password; none where there is no proxy."""
    if proxy is None:
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]} (of the environment; no_proxy names hosts that need none)"
