# SPDX-License-Identifier: Apache-2.0
"""The way that the hand goes after a window's first frame, from a column of the episodes' tables.

Letters: T control steps, P points of a trajectory, X coordinates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flashwam.data.episodes import read_table
from flashwam.data.samples import Window
from flashwam.data.tables import read_schema
from flashwam.system.errors import InputError

__all__ = ["HandPath", "HasTables", "Trajectories"]


class HasTables(Protocol):
    """The part of a data set that trajectories need; see `EpisodeDataset.tables`."""

    @property
    def tables(self) -> Mapping[tuple[Path, int], Path]:
        """Folder and number of every episode -> the table of its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandPath:
    """The numbers of a table that are the hand's place.

    Args:
        column: Of the tables.
        numbers: X of its numbers.
        summed: They are steps of the hand, such as actions, whose sum is its way.
    """

    column: str = "observation.state"
    numbers: tuple[int, ...] = (0, 1, 2)
    summed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", tuple(self.numbers))
        if not self.numbers or min(self.numbers) < 0:
            raise InputError(f"path.numbers must be places in a row, at least 0, such as [0, 1, 2]; got {self.numbers}")

    def read(self, table: Path) -> Tensor:
        """The hand's way [T, X], or of steps the sums before each row and after the last, [T + 1, X].

        Raises:
            FileNotFoundError, ValueError: The table is missing or damaged, or has no such numbers.
        """
        found = read_table(table, [self.column]).get(self.column)
        if found is None:
            raise InputError(
                f"{table}: has no column {self.column!r} to take the hand's trajectory from; columns: "
                f"{', '.join(read_schema(table).names)}; name one of them in train.options.path, such as "
                "{column: action, numbers: [0, 1, 2], summed: true} where the actions are steps of the hand, or set "
                "train.options.trajectory to 0"
            )
        rows = torch.from_numpy(found.astype(np.float32)).reshape(len(found), -1)
        if max(self.numbers) >= rows.shape[1]:
            raise InputError(
                f"{table}: column {self.column!r} has {rows.shape[1]} numbers a row, train.options.path.numbers asks "
                f"for {list(self.numbers)}, counted from 0"
            )
        rows = rows[:, list(self.numbers)]
        if not torch.isfinite(rows).all():
            raise InputError(f"{table}: column {self.column!r} holds numbers that are not finite")
        return torch.cat([torch.zeros_like(rows[:1]), rows.cumsum(0)]) if self.summed else rows


class Trajectories:
    """The hand's path after a window's first frame, in units of its spread over all episodes.

    Of places it is standardised; of steps it begins at the window's first frame.

    Args:
        dataset: Whose episodes.
        points: P, spread evenly over the horizon.
        horizon: Control steps from the first frame to the last point.
        path: Where it is read.

    Raises:
        FileNotFoundError, ValueError: There are more points than control steps, or a table has no such numbers.
    """

    def __init__(self, dataset: HasTables, *, points: int, horizon: int, path: HandPath | None = None) -> None:
        if not 1 <= points <= horizon:
            raise InputError(f"points must be in 1..{horizon}, the control steps ahead; got {points}")
        path = path or HandPath()
        self._ahead = torch.linspace(horizon / points, horizon, points).round().long()
        self._paths = {episode: path.read(table) for episode, table in dataset.tables.items()}
        every = torch.cat(list(self._paths.values()))
        self._summed = path.summed
        self._mean, self._std = every.mean(0), every.std(0).clamp(min=1e-6)

    def read(self, window: Window) -> tuple[Tensor, Tensor]:
        """Points [P, X] after a window's first frame, and bool [P], False beyond the episode's end."""
        path, rows = self._paths[window.repo, window.episode], window.row + self._ahead
        begin: Any = path[window.row] if self._summed else self._mean
        return (path[rows.clamp(max=len(path) - 1)] - begin) / self._std, rows < len(path)
