# SPDX-License-Identifier: Apache-2.0
"""One segment of a released data set, read whole and checked.

Letters: C latent channels, A action channels, F latent frames, N actions per latent frame, L text tokens, D text width,
S numbers of a sense.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flashwam.data.controls import ControlSpace
from flashwam.data.episodes import read_table
from flashwam.data.latents import LatentSegment, read_latents
from flashwam.data.layouts import arrange
from flashwam.data.samples import SENSE
from flashwam.data.segments import Segment
from flashwam.data.tables import read_actions, read_schema
from flashwam.system.errors import InputError

__all__ = ["SegmentSample", "read_segment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSample:
    """A whole segment, as LingBot-VA's own training sees it.

    Attributes:
        video: Latents of all cameras, float32 [C, F, H, W].
        action: float32 [A, F, N, 1], normalised; zero in unused channels.
        mask: bool [A, F, N, 1], True in used channels, frame 0 included.
        text: [L, D].
        prompt: The instruction.
        factor: Pictures per latent frame.
        first_row: Row of the episode's table that latent frame 0 is of.
        alone: [C, H, W], the first picture encoded alone; None where the first of `video` is just that.
        senses: Name -> what is told of every latent frame, unnormalised, float32 [S, F, 1, 1].
    """

    video: Tensor
    action: Tensor
    mask: Tensor
    text: Tensor
    prompt: str
    factor: int
    first_row: int
    alone: Tensor | None = None
    senses: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Stream name -> (C, H, W), "text" -> (L, D), "alone" -> (C, H, W) where there is one, "sense/<name>" -> (S,)
        for each sense."""
        video, action = self.video.shape, self.action.shape
        return {
            "video": (video[0], *video[2:]),
            "action": (action[0], *action[2:]),
            "text": tuple(self.text.shape),
            **({} if self.alone is None else {"alone": tuple(self.alone.shape)}),
            **{f"{SENSE}{name}": (len(told),) for name, told in self.senses.items()},
        }


def read_segment(
    segment: Segment,
    *,
    cameras: Sequence[str],
    layout: str,
    space: ControlSpace,
    stride: int | None = None,
    senses: Sequence[str] = (),
) -> SegmentSample:
    """Reads a segment's latents, actions and senses.

    Args:
        segment: Which.
        cameras: Camera keys, in the layout's order; the text comes from the first one's file.
        layout: See `flashwam.data.layouts.arrange`.
        space: What the rows of actions mean.
        stride: Rows between pictures that every file must have; None takes what the first has.
        senses: Names of columns `observation.<name>`.

    Raises:
        FileNotFoundError, ValueError: A file is missing, damaged or foreign; the message names file and reason.
    """
    views = _views(segment, cameras, stride)
    first = views[0]
    try:
        video = arrange(layout, [view.latents for view in views])
        alone = [view.alone[:, None] for view in views if view.alone is not None]
        if alone and len(alone) < len(views):
            raise InputError("some cameras have a first picture that was encoded alone, others have none")
        first_alone = arrange(layout, alone)[:, 0] if alone else None
    except ValueError as error:
        raise InputError(f"{segment.latents(cameras[0])}: {error}") from error
    rows = read_actions(segment.table)
    try:
        rows = rows[first.first_row : segment.end]
        action = space.actions(rows, frames=video.shape[1], per_frame=first.actions_per_frame)
    except ValueError as error:
        raise InputError(f"{segment.table}: {error}") from error
    at = first.first_row + first.actions_per_frame * np.arange(video.shape[1])
    return SegmentSample(
        video=video,
        action=action,
        mask=space.norm.mask().expand_as(action),
        text=first.text,
        prompt=first.prompt,
        factor=first.factor,
        first_row=first.first_row,
        alone=first_alone,
        senses={name: _told(segment.table, name, at) for name in senses},
    )


def _views(segment: Segment, cameras: Sequence[str], stride: int | None) -> list[LatentSegment]:
    """Every camera's latents, of the same pictures."""
    views: list[LatentSegment] = []
    for camera in cameras:
        path = segment.latents(camera)
        view = read_latents(path)
        if view.start != segment.start or view.end not in (None, segment.end):
            raise InputError(f"{path}: holds rows {view.start} to {view.end} by its own account")
        if view.latents.shape[1] < 2:
            raise InputError(f"{path}: holds {view.latents.shape[1]} latent frame; a sample needs at least 2")
        if views and (view.first_row, view.stride, view.factor) != tuple(
            getattr(views[0], key) for key in ("first_row", "stride", "factor")
        ):
            raise InputError(f"{path}: its pictures are not those of {cameras[0]}")
        if stride is not None and view.stride != stride:
            raise InputError(f"{path}: has a picture every {view.stride} rows, expected every {stride}")
        views.append(view)
    return views


def _told(path: Path, name: str, at: np.ndarray) -> Tensor:
    """A sense at some rows of a table, [S, F, 1, 1]."""
    column = f"observation.{name}"
    values = read_table(path, [column]).get(column)
    if values is None:
        raise InputError(
            f"{path}: has no column {column!r}, which the model is told of every frame; columns: "
            f"{', '.join(read_schema(path).names)}; rename the one that is meant, or train a model that is not told "
            "it (of the state: wam.config.state_dim=0)"
        )
    if len(values) <= at[-1]:
        raise InputError(f"{path}: has {len(values)} rows, and the last latent frame is of row {at[-1]}")
    told = values[at].reshape(len(at), -1).astype(np.float32)
    if not np.isfinite(told).all():
        row = int(at[np.argmin(np.isfinite(told).all(1))])
        raise InputError(f"{path}: column {column!r} holds a number that is not finite in row {row}")
    return torch.from_numpy(told).T[..., None, None]
