# SPDX-License-Identifier: Apache-2.0
"""An evaluation on recorded episodes: nobody drives, what is drawn is compared with what was recorded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flashwam.system.errors import InputError
from flashwam.system.json_file import Measured
from flashwam.system.paths import user_path

__all__ = ["CONTROL_COLUMNS", "OnRecordings", "RecordingNumbers"]

CONTROL_COLUMNS = {
    "to teacher": "error_teacher",
    "teacher's two draws": "teacher_spread",
    "to recorded": "error_recorded",
    "teacher to recorded": "teacher_error_recorded",
    "variance ratio": "variance_ratio",
}
"""Column of a table of controls -> measure of each, see `RecordingNumbers.by_control`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnRecordings:
    """The part of a request that says on which recordings.

    Args:
        windows: Windows of episodes.
        draws: Of every window, each from noise of its own.
        data: Folder of the recordings; empty for those that the model was made from.
        tasks: Data sets that are chosen; empty where none are.
    """

    windows: int
    draws: int
    data: str = ""
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("windows", "draws"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; got {getattr(self, name)}")

    @property
    def folder(self) -> str:
        """The folder of the recordings however it was written; empty for those that the model was made from."""
        return str(user_path(self.data).resolve()) if self.data else ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return told | {"tasks": list(self.tasks)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingNumbers:
    """The measurements of a model on recordings.

    Args:
        held_out: No training of this model saw these episodes; its teacher's may have, where that was made elsewhere.
            None where nobody knows, as of a model behind a server.
        windows: That there were, and episodes that they are from.
        episodes: See `windows`.
        different: Of the windows those that are not drawn twice; None where nobody counted, as in earlier versions.
        draws: Of every window.
        names, units: Of the V values shown of the controls, see `flashwam.data.control_names.ControlNames`.
        by_control: Measure -> value of each of V, in its unit, see `flashwam.evaluation.trajectories`.
        measures: Measure -> value of all together.
        over_chunk: Error to the teacher at each place of a chunk, in normalised controls.
        trajectories: Name of a file of arrays beside the evaluation's; None where there is none.
    """

    held_out: bool | None = None
    windows: int
    episodes: int
    draws: int
    names: tuple[str, ...]
    units: tuple[str, ...]
    by_control: Mapping[str, tuple[Measured, ...]] = field(default_factory=dict)
    measures: Mapping[str, Measured] = field(default_factory=dict)
    over_chunk: tuple[Measured, ...] = ()
    trajectories: str | None = None
    different: int | None = None

    @property
    def counted(self) -> str:
        """The windows in words: "32 windows", or "32 windows (4 different)"."""
        some = self.different is not None and self.different < self.windows
        return f"{self.windows} windows" + (f" ({self.different} different)" if some else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return told | {
            "names": list(self.names),
            "units": list(self.units),
            "by_control": {name: list(values) for name, values in self.by_control.items()},
            "measures": dict(self.measures),
            "over_chunk": list(self.over_chunk),
        }
