# SPDX-License-Identifier: Apache-2.0
"""The token that opens a server, the same text for whoever asks for it and whoever sends it."""

import os
from pathlib import Path

from flashwam.system.errors import InputError

__all__ = ["VARIABLE", "check_token", "given_token"]

VARIABLE = "FLASHWAM_TOKEN"
"""Of the environment, which holds the token where no file does."""


def check_token(token: str, *, of: str = "token") -> str:
    """Refuses a token that no header carries as it is; nothing but its first wrong character is shown.

    Args:
        token: The text.
        of: Its source, for messages.

    Returns:
        The same.

    Raises:
        ValueError: It is empty, or holds anything but ASCII letters, digits and signs.
    """
    wrong = next((character for character in token if not "!" <= character <= "~"), None)
    if not token or wrong is not None:
        got = "it is empty" if wrong is None else f"it holds {wrong!r}"
        raise InputError(
            f"{of} must be ASCII letters, digits and signs on one line, without spaces; {got}: make one with "
            "`openssl rand -hex 16`"
        )
    return token


def given_token(file: Path | None) -> str | None:
    """The token of a file, or else of the environment; spaces and line breaks about it are not of it.

    Args:
        file: The file.

    Returns:
        The token; None where neither is given.

    Raises:
        OSError: The file cannot be read.
        ValueError: What it or the environment holds is no token.
    """
    if file is None:
        text = os.environ.get(VARIABLE)
        return check_token(text.strip(), of=f"the token in {VARIABLE}") if text else None
    # Bytes that are no text, such as UTF-16's, are told like any other wrong character.
    text = file.read_bytes().decode("utf-8", "replace")
    return check_token(text.strip(), of=f"the token in {file}")
