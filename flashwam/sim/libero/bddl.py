# SPDX-License-Identifier: Apache-2.0
"""Reads a task's file in BDDL, the language of brackets in which LIBERO writes its tasks down."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flashwam.system.errors import InputError

__all__ = ["Problem", "parse_problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One task, as its file tells it.

    Args:
        name: Of the scene's class, such as "LIBERO_Kitchen_Tabletop_Manipulation".
        language: The instruction, in the file's own words.
        objects: Movable things, such as "milk_1" -> its kind, "milk".
        fixtures: Things that stay, such as "wooden_cabinet_1" -> its kind.
        of_interest: Things that the task is about, in the file's order.
        goal: Conditions that all have to hold, such as ("in", "milk_1", "basket_1_contain_region").
    """

    name: str
    language: str
    objects: dict[str, str]
    fixtures: dict[str, str]
    of_interest: tuple[str, ...]
    goal: tuple[tuple[str, ...], ...]


def parse_problem(text: str, where: str = "a BDDL text") -> Problem:
    """Parses the text of a task's file.

    Args:
        text: One `(define ...)`.
        where: What it is, for messages.

    Raises:
        ValueError: Its brackets do not match, or it lacks a name, an instruction or a goal.
    """
    groups = _brackets(text, where)
    if len(groups) != 1 or not isinstance(groups[0], list) or groups[0][:1] != ["define"]:
        raise InputError(f"{where} must be one (define ...); got {text.strip()[:40]!r}")
    parts = {str(part[0]): part[1:] for part in groups[0][1:] if isinstance(part, list) and part}
    lacking = [name for name in ("problem", ":language", ":goal") if not parts.get(name)]
    if lacking:
        raise InputError(f"{where} lacks ({lacking[0]} ...): it is no task of LIBERO")
    return Problem(
        name=str(parts["problem"][-1]),
        language=" ".join(map(str, parts[":language"])),
        objects=_kinds(parts.get(":objects", [])),
        fixtures=_kinds(parts.get(":fixtures", [])),
        of_interest=tuple(map(str, parts.get(":obj_of_interest", []))),
        goal=tuple(_conditions(parts[":goal"][0])),
    )


def _brackets(text: str, where: str) -> list[Any]:
    """Nested lists of words."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
        if token == "(":
            stack.append([])
        elif token != ")":
            stack[-1].append(token)
        elif len(stack) == 1:
            raise InputError(f"{where} closes a bracket that it has not opened")
        else:
            done = stack.pop()
            stack[-1].append(done)
    if len(stack) > 1:
        raise InputError(f"{where} leaves {len(stack) - 1} bracket(s) open: the file is not whole")
    return stack[0]


def _kinds(words: list[Any]) -> dict[str, str]:
    """`milk_1 milk_2 - milk` -> the kind of each."""
    found, waiting = {}, []
    rest = iter(map(str, words))
    for word in rest:
        if word == "-":
            found |= dict.fromkeys(waiting, next(rest, ""))
            waiting = []
        else:
            waiting.append(word)
    return found | dict.fromkeys(waiting, "object")


def _conditions(goal: Any) -> Iterator[tuple[str, ...]]:
    """Conditions of a goal, one or several below `And`; predicates in lower case."""
    if not isinstance(goal, list) or not goal:
        return
    if str(goal[0]).lower() == "and":
        for each in goal[1:]:
            yield from _conditions(each)
    else:
        yield (str(goal[0]).lower(), *(str(word) for word in goal[1:] if not isinstance(word, list)))
