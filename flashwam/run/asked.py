# SPDX-License-Identifier: Apache-2.0
"""The request that an evaluation answers, and in words what tells one from another."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flashwam.run.real_time import RealTime
from flashwam.run.recordings import OnRecordings
from flashwam.run.task_numbers import known_values
from flashwam.system.json_file import build, shown

__all__ = ["Asked", "with_parts"]

_RECORDINGS = "recordings"
_FINGERPRINT = re.compile(r"[0-9a-f]{32,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The request that an evaluation answers; two of one request are one.

    Args:
        tasks: Names.
        episodes: Per task.
        closed_loop: Whether the tasks are driven.
        cache: Entries of the cache of a policy that keeps one by choice.
        real_time: The clock of a world that does not wait; None for one that does.
        recordings: On which recordings; None where episodes are driven, or held-out windows of the run alone drawn.
        settings: What else decides the numbers -> its value or fingerprint. What one of two requests does not tell, as
            older ones do not, tells them not apart.
    """

    tasks: tuple[str, ...]
    episodes: int
    closed_loop: bool = True
    cache: int | None = None
    real_time: RealTime | None = None
    recordings: OnRecordings | None = None
    settings: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def from_json(cls, content: Any, where: str) -> Self:
        """A request from plain values; `where` names them in messages.

        Raises:
            ValueError: They are none.
        """
        values = known_values(content, where)
        return build(where, cls, with_parts(values, where, recordings=OnRecordings))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {"tasks": list(self.tasks), "episodes": self.episodes, "closed_loop": self.closed_loop}
        if self.cache is not None:
            told["cache"] = self.cache
        if self.settings:
            told["settings"] = dict(self.settings)
        parts = {"real_time": self.real_time, "recordings": self.recordings}
        return told | {name: part.to_json() for name, part in parts.items() if part is not None}

    def differences(self, now: Self) -> list[str]:
        """Says in words what another request asks otherwise, such as "draws: 8 then, 4 now"; settings apart."""
        then, told = self._words(), now._words()
        one, other = self.recordings, now.recordings
        if one is not None and other is not None and one.folder == other.folder:
            del told[_RECORDINGS]
        return [f"{name}: {then[name]} then, {words} now" for name, words in told.items() if words != then[name]]

    def changed_settings(self, now: Self) -> list[str]:
        """Says in words which settings differ that both requests tell, such as "dtype: 'own' then, 'float32' now"."""
        pairs = {name: (self.settings[name], told) for name, told in now.settings.items() if name in self.settings}
        return [
            f"{name}: not the same as then"
            if _FINGERPRINT.fullmatch(told)
            else f"{name}: {shown(then)} then, {shown(told)} now"
            for name, (then, told) in pairs.items()
            if then != told
        ]

    def _words(self) -> dict[str, str]:
        """The parts of the request, in words, by name."""
        on = self.recordings
        clock = {} if self.real_time is None else self.real_time.to_json()
        told: dict[str, Any] = {
            "tasks": ", ".join(self.tasks),
            "episodes": self.episodes,
            "driven": "yes" if self.closed_loop else "no",
            "cache": self.cache,
            "clock": ", ".join(f"{name} {value}" for name, value in clock.items() if value is not None),
            "windows": None if on is None else on.windows,
            "draws": None if on is None else on.draws,
            _RECORDINGS: None if on is None else on.data or "the model's own",
            "data sets": None if on is None else ", ".join(on.tasks),
        }
        return {name: "none" if value in (None, "") else str(value) for name, value in told.items()}


def with_parts(values: dict[str, Any], where: str | Path, **kinds: Any) -> dict[str, Any]:
    """Values with the dataclasses that some of them stand for: a clock, and those of `kinds`."""
    found = dict(values)
    for name, kind in {"real_time": RealTime, **kinds}.items():
        if name in values:
            what = f"{where}: {name}"
            found[name] = build(what, kind, known_values(values[name], what))
    return found
