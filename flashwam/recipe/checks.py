# SPDX-License-Identifier: Apache-2.0
"""Complaints about a field of a recipe's section."""

from typing import Any

from flashwam.system.errors import InputError

__all__ = ["FieldError", "check"]


class FieldError(InputError):
    """A field's value is outside its range; `key` names the field."""

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(f"{key} must be {expected}; got {value!r}")
        self.key = key


def check(section: object, keys: str | tuple[str, ...], valid: Any, expected: str) -> None:
    """Raises a FieldError for the first of `keys` whose value does not satisfy `valid`."""
    for key in (keys,) if isinstance(keys, str) else keys:
        value = getattr(section, key)
        if not valid(value):
            raise FieldError(key, value, expected)
