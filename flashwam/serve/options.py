# SPDX-License-Identifier: Apache-2.0
"""The address and the limits of a server."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from flashwam.serve.access import check_token
from flashwam.serve.session import MOST_PROMPT
from flashwam.system.errors import InputError

__all__ = ["DEFAULT_PORT", "PROTOCOLS", "Protocol", "ServerOptions"]

DEFAULT_PORT = 29536
"""LingBot-VA's own."""
Protocol = Literal["lingbot_va", "openpi"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The address and the limits of a server.

    Args:
        host: Address; only this machine reaches the default.
        port: 0 takes a free one.
        token: What a client must send as "Authorization: Bearer <token>", or "Api-Key <token>" as LingBot-VA's and
            openpi's clients do; None admits everyone who connects.
        max_message_bytes: Longer messages end their session.
        max_prompt_characters: Longer prompts are refused; their session can be reset with a shorter one.
        idle_seconds: A session that sends nothing for so long is ended.
        max_sessions: Further connections are turned away.
        protocol: What clients speak: "lingbot_va", with a model's memory of the episode, or "openpi", without.
        cameras: With openpi, camera of the model -> key of its picture in an observation.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str | None = None
    max_message_bytes: int = 128 * 2**20
    max_prompt_characters: int = MOST_PROMPT
    idle_seconds: float = 600.0
    max_sessions: int = 16
    protocol: Protocol = "lingbot_va"
    cameras: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise InputError(f"port must be 0 to 65535; got {self.port}")
        for key in ("max_message_bytes", "max_prompt_characters", "idle_seconds", "max_sessions"):
            if getattr(self, key) <= 0:
                raise InputError(f"{key} must be positive; got {getattr(self, key)}")
        if self.protocol not in PROTOCOLS:
            raise InputError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {self.protocol!r}")
        if self.cameras and self.protocol != "openpi":
            raise InputError("keys of cameras are for the protocol openpi; LingBot-VA's clients use the cameras' names")
        if self.token is not None:
            check_token(self.token)

    def check_host(self) -> None:
        """Refuses a host that has no address, before minutes go by until a server listens there.

        Raises:
            ValueError: It is none, or its name is not known here.
        """
        try:
            socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM)
        # A name with a part that is empty or too long is not even looked up.
        except (socket.gaierror, UnicodeError) as error:
            raise InputError(
                f"host must be an address or name of this machine, such as 127.0.0.1 or 0.0.0.0; got {self.host!r}, "
                f"with port {self.port} ({error})"
            ) from error
