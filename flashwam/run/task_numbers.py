# SPDX-License-Identifier: Apache-2.0
"""Episodes of a task, counted, with what became of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from flashwam.core.stats import wilson
from flashwam.system.errors import InputError
from flashwam.system.json_file import Measured, build, shown

__all__ = ["TaskNumbers", "known_values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNumbers:
    """Episodes of one task, or of several together.

    Args:
        episodes: How many.
        success: Successful ones.
        commitment: Share of episodes that clearly took one way; None where there is but one, or it is not told.
        multimodal: Whether several ways lead to success.
        moving: Whether its scene moves by itself.
        ways: "-1" for none, "0" or "1" -> episodes whose hand took it.
        steps: Control steps of an episode, mean; None where it is not told.
        outcomes: Per episode 1 for success and 0 for failure; None for several tasks, or where it is not told.
        scenes: Per episode, the number of its scene; None like `outcomes`.
        taken: Per episode, the way its hand took, -1 for none; None like `outcomes`, or where there is but one way.
        motion: Per episode, how alike the imagined and the real motion were, in [-1, 1]; None where it had none.
        first_motion: The same of an episode's first chunk.
        lasted: Per episode, seconds of the world until it ended; None where the world waited for its policy.

    Raises:
        ValueError: More successes than episodes.
    """

    episodes: int
    success: int
    commitment: Measured | None = None
    multimodal: bool = False
    moving: bool = False
    ways: Mapping[str, int] = field(default_factory=dict)
    steps: Measured | None = None
    outcomes: tuple[int, ...] | None = None
    scenes: tuple[int, ...] | None = None
    taken: tuple[int, ...] | None = None
    motion: tuple[Measured | None, ...] | None = None
    first_motion: tuple[Measured | None, ...] | None = None
    lasted: tuple[Measured, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.success <= self.episodes:
            raise InputError(f"success must be from 0 to the number of episodes, {self.episodes}; got {self.success}")

    @classmethod
    def from_json(cls, content: Any, where: str) -> Self:
        """Numbers from plain values; `where` names them in messages.

        Raises:
            ValueError: They are no numbers of episodes.
        """
        return build(where, cls, known_values(content, where, {each.name for each in fields(cls)}))

    @property
    def rate(self) -> float:
        """Share of successes, 0 where nothing was tried."""
        return self.success / self.episodes if self.episodes else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        return wilson(self.success, self.episodes)

    @property
    def task_seconds(self) -> float | None:
        """Seconds of the world until a successful episode was done, mean; None where none was, or it is not told."""
        pairs = zip(self.lasted or (), self.outcomes or (), strict=False)
        done = [seconds for seconds, success in pairs if success]
        return fmean(done) if done else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {
            "episodes": self.episodes,
            "success": self.success,
            "wilson": list(self.interval),
            "commitment": self.commitment,
            "multimodal": self.multimodal,
            "ways": dict(self.ways),
            "steps": self.steps,
        }
        names = ("outcomes", "scenes", "taken", "motion", "first_motion", "lasted")
        of_episodes = {name: getattr(self, name) for name in names}
        if self.moving:
            told["moving"] = True
        return told | {name: list(values) for name, values in of_episodes.items() if values is not None}


def known_values(content: Any, where: str | Path, known: set[str] | None = None) -> dict[str, Any]:
    """Keeps the known keys of a mapping whose values are not null.

    Args:
        content: What a file holds.
        where: What it is, for messages.
        known: Keys; all if None.

    Raises:
        ValueError: It is no mapping.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{where} must be a mapping; got {shown(content)}")
    return {key: value for key, value in content.items() if value is not None and (known is None or key in known)}
