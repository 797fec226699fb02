# SPDX-License-Identifier: Apache-2.0
"""Errors that are messages to the user: something was given, is missing, or went wrong that a person can put right.

The command line prints a `UserError`, and an `OSError` of the user's own files, as one sentence. Every other error is a
mistake of the code, be it flashwam's or a plug-in's, and shows where it arose: so a call with a tensor of another shape
or a session's calls out of order raise built-in errors, never one of these.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "DivergedError",
    "FailedError",
    "InputError",
    "MissingFileError",
    "MissingPackageError",
    "UserError",
    "nearest_hint",
]


class UserError(Exception):
    """A message to the user: what was expected, what came, what to do.

    Raised as one of its kinds below, each of which is the built-in error of its sort too, so that ``except ValueError``
    catches an `InputError` and leaves a package that is not installed alone.
    """


class InputError(UserError, ValueError):
    """A value, a file's content or a combination of settings that is not accepted."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that must be there and is not."""


class MissingPackageError(UserError, ImportError):
    """An optional package that is not installed; the message says how to install it."""


class FailedError(UserError, RuntimeError):
    """Work that cannot go on for a reason outside of it, such as a server that does not answer as it should."""


class DivergedError(UserError, FloatingPointError):
    """A training whose loss, gradients or weights are no longer finite numbers."""


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """The end of a complaint about an unknown name: "; did you mean 'x'?", or nothing where none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
