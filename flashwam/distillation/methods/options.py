# SPDX-License-Identifier: Apache-2.0
"""A method's options as the recipe gives them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flashwam.system.errors import InputError

__all__ = ["option", "unknown_streams"]


def option(method: Callable[..., Any], options: Mapping[str, Any], name: str) -> Any:
    """One of a method's own keywords: as the recipe has it, or its default."""
    return options.get(name, inspect.signature(method).parameters[name].default)


def unknown_streams(option: str, given: Mapping[str, Any], streams: Mapping[str, Any]) -> None:
    """Refuses an option that names a stream the model does not have."""
    wrong = sorted(set(given) - set(streams))
    if wrong:
        raise InputError(f"{option} names {wrong}; the streams are {list(streams)}")
