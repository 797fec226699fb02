# SPDX-License-Identifier: Apache-2.0
"""`flashwam info`: this installation, or what a folder holds."""

import argparse
from collections.abc import Mapping
from typing import Any

from flashwam.commands.shared import Command, add_json, add_trust, path, trust, write_json

__all__ = ["COMMAND", "has_problems", "info_lines"]

WORDS = """\
this installation, or what a folder holds
Without a path: versions, device, rendering backend and what is missing, with the command that installs it.
With a path: a run, a teacher, a student or another tool's checkpoint that a family knows (as released, a fine-tune, a
step of the Flash-WAM release, LeRobot's): family, size, streams, consistency functions, origin. Exit status 1 where its
weights do not fit its configuration, are not whole or hold NaN; each fault is listed."""
EXAMPLES = "  flashwam info\n  flashwam info runs/flash_wam/student\n  flashwam info checkpoints/lingbot-va-base"

PROBLEMS = "problems"
"""Key of what is wrong with a model's weights, a line each."""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", nargs="?", type=path, help="a run, model or checkpoint folder")
    add_trust(parser)
    add_json(parser)


def _action(arguments: argparse.Namespace) -> int:
    if arguments.path is None:
        from flashwam.commands.installation import installation

        facts = installation()
    else:
        from flashwam.commands.describe import describe

        facts = describe(arguments.path, **trust(arguments))
    if write_json(arguments, facts):
        print("\n".join(info_lines(facts)))
    return 1 if has_problems(facts) else 0


def info_lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """Nested facts as aligned text."""
    shown = {key: value for key, value in facts.items() if value not in (None, {}, [])}
    width = max((len(str(key)) for key in shown), default=0)
    lines = []
    for key, value in shown.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}", *info_lines(value, indent + "  ")]
        elif key == PROBLEMS:
            lines += [f"{indent}{key}", *(f"{indent}  {line}" for line in value)]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            text = f"{value:,}" if type(value) is int else text
            lines.append(f"{indent}{key:<{width}}  {text}")
    return lines


def has_problems(facts: Any) -> bool:
    """Tells whether anything described cannot be loaded, or holds what is no number."""
    return isinstance(facts, Mapping) and (bool(facts.get(PROBLEMS)) or any(map(has_problems, facts.values())))


COMMAND = Command(name="info", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
