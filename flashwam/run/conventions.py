# SPDX-License-Identifier: Apache-2.0
"""Conventions that evaluations were driven under, as far as they tell some from others."""

from collections.abc import Hashable, Sequence

from flashwam.run.driven_under import convention_of
from flashwam.run.evaluation import Evaluation

__all__ = ["Conventions"]

_STEPS = "max_steps"


class Conventions:
    """Names the conventions of evaluations that are compared.

    How long an episode may last depends on the suite, so it tells conventions apart only within one. What some do not
    tell of their convention, as older ones may not, tells none apart.

    Args:
        evaluations: All that are compared.
    """

    def __init__(self, evaluations: Sequence[Evaluation]) -> None:
        driven = [one for one in evaluations if convention_of(one)]
        self._shared = [
            name
            for name in (convention_of(driven[0]) if driven else {})
            if all(name in convention_of(o) for o in driven)
        ]
        self._by_length: set[Hashable] = set()
        lasting: dict[Hashable, set[str]] = {}
        for one in (one for one in driven if _STEPS in convention_of(one)):
            steps = lasting.setdefault((self._values(one), one.more["simulator"].get("suite")), set())
            steps.add(str(convention_of(one)[_STEPS]))
            if len(steps) > 1:
                self._by_length.add(self._values(one))
        self._names = _names(list(dict.fromkeys(map(self._which, driven))))
        self._of_run: dict[str, set[str]] = {}
        for one in driven:
            self._of_run.setdefault(one.run, set()).add(self._names[self._which(one)])

    def name(self, one: Evaluation) -> str:
        """Name of an evaluation's convention: "common", or "common*, idle_steps 3" where several have that name.

        "" where all that tell one tell the same. An evaluation that tells none is of the only one that others of its
        run tell, or "".
        """
        if convention_of(one):
            return self._names[self._which(one)]
        names = self._of_run.get(one.run, set())
        return next(iter(names)) if len(names) == 1 else ""

    def _values(self, one: Evaluation) -> tuple[tuple[str, str], ...]:
        told = convention_of(one)
        return tuple((name, str(told[name])) for name in self._shared if name != _STEPS)

    def _which(self, one: Evaluation) -> tuple[tuple[str, str], ...]:
        values, told = self._values(one), convention_of(one)
        return (*values, (_STEPS, str(told[_STEPS]))) if values in self._by_length and _STEPS in told else values


def _names(conventions: Sequence[tuple[tuple[str, str], ...]]) -> dict[tuple[tuple[str, str], ...], str]:
    """Convention -> its name, with the values that tell it from others of that name; "" where it is the only one."""
    if len(conventions) < 2:
        return dict.fromkeys(conventions, "")
    named = {one: dict(one).get("name", "other") for one in conventions}
    found = {}
    for one, name in named.items():
        namesakes = [dict(other) for other, its in named.items() if its == name]
        differing = [f"{key} {value}" for key, value in one if any(other.get(key) != value for other in namesakes)]
        found[one] = ", ".join([name, *differing])
    return found
