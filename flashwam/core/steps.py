# SPDX-License-Identifier: Apache-2.0
"""Steps per stream and chunk as text, such as "1v/2a"."""

import re
from collections.abc import Mapping

from flashwam.system.errors import InputError

__all__ = ["nfe_text", "parse_nfe"]

_STEPS = re.compile("0*[1-9][0-9]{0,5}")
"""Up to 999,999 in ASCII: str.isdigit takes "²" too, and int refuses thousands of digits."""


def parse_nfe(text: str, streams: tuple[str, ...] = ("video", "action")) -> dict[str, int] | None:
    """ "1v/2a" -> {"video": 1, "action": 2} by the streams' first letters, in the streams' order; "full" -> None, the
    teacher's own steps.

    Raises:
        ValueError: It does not name every stream once, with a number of steps.
    """
    if text == "full":
        return None
    initials = {name[0]: name for name in streams}
    steps = {}
    for part in text.split("/"):
        if not part or part[-1] not in initials or not _STEPS.fullmatch(part[:-1]):
            example = "/".join(f"1{letter}" for letter in initials)
            raise InputError(f"steps must read like {example!r} or 'full'; got {text!r}")
        if initials[part[-1]] in steps:
            raise InputError(f"steps must name every stream of {streams} once; got {text!r}")
        steps[initials[part[-1]]] = int(part[:-1])
    if set(steps) != set(streams):
        raise InputError(f"steps must name every stream of {streams}; got {text!r}")
    return {name: steps[name] for name in streams}


def nfe_text(nfe: Mapping[str, int]) -> str:
    """Stream name -> steps as `parse_nfe` reads them: "1v/2a"."""
    return "/".join(f"{steps}{name[0]}" for name, steps in nfe.items())
