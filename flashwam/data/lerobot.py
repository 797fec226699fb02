# SPDX-License-Identifier: Apache-2.0
"""Training samples from LingBot-VA's released data sets (RoboTwin, LIBERO) and those `flashwam convert` makes.

Letters: B samples, C latent channels, A action channels, F latent frames of a window, N actions per latent frame,
L text tokens, D text width. Action frame j holds the N controls executed between latent frames j - 1 and j; frame 0 is
padding. Nothing is held in memory but the list of segments: a draw opens the files of one segment.
"""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flashwam.core.batch import Batch
from flashwam.data.actions import ActionNorm
from flashwam.data.bad_files import BadFiles
from flashwam.data.controls import ControlSpace
from flashwam.data.dataset import to_batch
from flashwam.data.fingerprint import files_fingerprint
from flashwam.data.latents import EMPTY_TEXT, read_latents, read_text
from flashwam.data.layouts import arrange, check_cameras
from flashwam.data.segments import NoEpisodesError, find_segments, is_held_out
from flashwam.data.tables import read_actions
from flashwam.system.errors import FailedError, InputError, MissingFileError
from flashwam.system.paths import user_path

__all__ = ["SegmentDataset", "SegmentSample", "Split"]

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "all"]
_ATTEMPTS = 100
_ORDER, _REPLACE, _START, _TEXT = range(4)


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
        alone: [C, H, W], the first picture encoded alone; None where the first of `video` is just that.
    """

    video: Tensor
    action: Tensor
    mask: Tensor
    text: Tensor
    prompt: str
    factor: int
    alone: Tensor | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Stream name -> (C, H, W), "text" -> (L, D), and "alone" -> (C, H, W) where there is one."""
        video, action = self.video.shape, self.action.shape
        return {
            "video": (video[0], *video[2:]),
            "action": (action[0], *action[2:]),
            "text": tuple(self.text.shape),
            **({} if self.alone is None else {"alone": tuple(self.alone.shape)}),
        }


class SegmentDataset(Dataset):
    """Windows of segments. Every epoch visits each segment once; draw i is a function of (seed, i) and the files alone.

    Args:
        root: Any folder above the repos; holds `empty_emb.pt`.
        cameras: Camera keys, in the layout's order; the text comes from the first one's files.
        layout: See `flashwam.data.layouts.arrange`.
        space: What the rows of actions mean.
        window_frames: F. A longer segment is cut at a random frame; a shorter one is padded by its last frame, masked.
            With F as large as the longest segment, every sample is a whole one.
        tasks: See `select_repos`.
        stride: Rows between pictures that every file must have; None takes what the first file has.
        seed: Of the draws.
        first_share: Share of draws whose window begins where its segment begins.
        text_dropout: Probability that a draw's text is the empty prompt's.
        skip_bad: Skip files that cannot be read, and draw another segment instead; `bad` lists them.
        split: Which episodes: "train", "val", or "all".
        val_every: One episode in so many of every repo, the last of them, belongs to "val"; None: none does.

    Attributes:
        shapes: Stream name -> (C, H, W) of its tensors, "text" -> (L, D), and "alone" -> (C, H, W) where every segment
            is a clip whose first picture was encoded alone too; samples then begin where segments do.
        factor: Pictures per latent frame.
        bad: What was skipped so far.
        prefetch: Steps that a training reads ahead.

    Raises:
        FileNotFoundError, ValueError: Something is missing, damaged or foreign; the message names file and reason.
    """

    prefetch = 2

    def __init__(
        self,
        root: Path | str,
        *,
        cameras: Sequence[str],
        layout: str,
        space: ControlSpace,
        window_frames: int,
        tasks: Sequence[str] | None = None,
        stride: int | None = None,
        seed: int = 0,
        first_share: float = 0.0,
        text_dropout: float = 0.0,
        skip_bad: bool = False,
        split: Split = "all",
        val_every: int | None = None,
    ) -> None:
        if split not in get_args(Split):
            raise InputError(f"split: expected one of {', '.join(get_args(Split))}, got {split!r}")
        if window_frames < 2:
            raise InputError(f"window_frames must be at least 2 (an observation and what follows), got {window_frames}")
        for name, share in (("first_share", first_share), ("text_dropout", text_dropout)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {share}")
        check_cameras(layout, len(cameras))
        self.root, self.cameras, self.layout, self.space = user_path(root), tuple(cameras), layout, space
        self.window_frames, self.seed = window_frames, seed
        self.first_share, self.text_dropout = first_share, text_dropout
        self.bad = BadFiles(skip=skip_bad)
        if not self.root.is_dir():
            raise MissingFileError(f"{self.root}: no such folder; data.root is where the encoded data sets lie")
        self.null_text = read_text(self.root / EMPTY_TEXT)
        self.segments = [
            segment
            for segment in find_segments(self.root, cameras=cameras, tasks=tasks, bad=self.bad)
            if split == "all" or is_held_out(segment.episode, val_every) == (split == "val")
        ]
        if not self.segments:
            held = "is held out" if val_every is None else f"is the last of {val_every}, as those held out are"
            told = f"no episode below {self.root} {held}" if split == "val" else f"every one below {self.root} {held}"
            raise NoEpisodesError(f"no episodes for split {split!r}: {told}; see data.held_out_every")
        self._stride = stride
        self._orders: dict[int, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.factor = 1
        # The first readable file says what all must look like.
        for number in range(len(self.segments)):
            sample = self._try(number)
            if sample is not None:
                self.shapes, self.factor = sample.shapes, sample.factor
                break
        else:
            raise InputError(f"none of the {len(self.segments)} segments below {root} can be read: {self.reasons[0]}")
        if self.shapes["text"] != tuple(self.null_text.shape):
            raise InputError(
                f"{self.root / EMPTY_TEXT}: expected {self.shapes['text']} like the segments' text, got "
                f"{tuple(self.null_text.shape)}"
            )

    @classmethod
    def of_settings(cls, data: Any, norm: ActionNorm, *, split: Split, seed: int) -> "SegmentDataset":
        """The samples that a recipe's `data` section describes.

        Args:
            data: The section.
            norm: Of the actions.
            split, seed: See the class.
        """
        return cls(
            data.root,
            cameras=data.cameras,
            layout=data.layout,
            space=ControlSpace(norm=norm, relative=data.relative_poses, first=data.first_actions),
            window_frames=data.window_frames,
            tasks=data.tasks,
            stride=data.stride,
            seed=seed,
            first_share=data.first_share,
            text_dropout=data.text_dropout if split == "train" else 0.0,
            skip_bad=data.skip_bad,
            split=split,
            val_every=data.held_out_every,
        )

    def fingerprint(self) -> str:
        """Tells these samples from others; see `flashwam.data.fingerprint` for what it can miss."""
        files = [self.root / EMPTY_TEXT]
        for segment in self.segments:
            files += [segment.table, *(segment.latents(camera) for camera in self.cameras)]
        norm = json.dumps(self.space.norm.to_dict(), sort_keys=True)
        return files_fingerprint([path for path in files if path.is_file()], base=self.root, extra=norm)

    @property
    def reasons(self) -> list[str]:
        """Reasons why files were skipped so far; each names its file."""
        return list(self.bad.reasons.values())

    def __len__(self) -> int:
        return len(self.segments)

    def beginnings(self, *, several_ways: int = 1) -> "SegmentDataset":
        """The same samples, each from where its segment begins, see `flashwam.distillation.setup.Beginnings`; of such
        data nobody knows which had several ways to go."""
        twin = copy.copy(self)
        twin.first_share, twin._orders = 1.0, {}
        return twin

    def segment(self, number: int) -> SegmentSample:
        """Reads segment `number` of `segments` whole.

        Raises:
            FileNotFoundError, ValueError: A file is missing, damaged or foreign; the message names file and reason.
        """
        segment = self.segments[number]
        views = []
        for camera in self.cameras:
            path = segment.latents(camera)
            view = read_latents(path)
            if view.start != segment.start or view.end not in (None, segment.end):
                raise InputError(f"{path}: holds rows {view.start} to {view.end} by its own account")
            if view.latents.shape[1] < 2:
                raise InputError(f"{path}: holds {view.latents.shape[1]} latent frame; a sample needs at least 2")
            if views and (view.first_row, view.stride, view.factor) != tuple(
                getattr(views[0], key) for key in ("first_row", "stride", "factor")
            ):
                raise InputError(f"{path}: its pictures are not those of {self.cameras[0]}")
            if self._stride is not None and view.stride != self._stride:
                raise InputError(f"{path}: has a picture every {view.stride} rows, expected every {self._stride}")
            views.append(view)
        first = views[0]
        try:
            video = arrange(self.layout, [view.latents for view in views])
            alone = [view.alone[:, None] for view in views if view.alone is not None]
            if alone and len(alone) < len(views):
                raise InputError("some cameras have a first picture that was encoded alone, others have none")
            first_alone = arrange(self.layout, alone)[:, 0] if alone else None
        except ValueError as error:
            raise InputError(f"{segment.latents(self.cameras[0])}: {error}") from error
        rows = read_actions(segment.table)
        try:
            rows = rows[first.first_row : segment.end]
            action = self.space.actions(rows, frames=video.shape[1], per_frame=first.actions_per_frame)
        except ValueError as error:
            raise InputError(f"{segment.table}: {error}") from error
        mask = self.space.norm.mask().expand_as(action)
        sample = SegmentSample(
            video=video,
            action=action,
            mask=mask,
            text=first.text,
            prompt=first.prompt,
            factor=first.factor,
            alone=first_alone,
        )
        if self.shapes and sample.shapes != self.shapes:
            path = segment.latents(self.cameras[0])
            raise InputError(f"{path}: expected {self.shapes} like the first segment, got {sample.shapes}")
        return sample

    def check(self, *, progress: bool = True) -> dict[str, str]:
        """Reads every segment once.

        Returns:
            What cannot be read -> why; empty if all is well. Without `skip_bad` the first such is raised.
        """
        from tqdm import tqdm

        for number in tqdm(range(len(self.segments)), desc="check", unit="segment", disable=not progress):
            self._try(number)
        return dict(self.bad.reasons)

    def _try(self, number: int) -> SegmentSample | None:
        """A segment, or None if it is bad and to be skipped."""
        what = str(self.segments[number].latents(self.cameras[0]))
        if what in self.bad.reasons:
            return None
        try:
            return self.segment(number)
        except (ValueError, FileNotFoundError) as error:
            self.bad.add(what, error)
            return None

    def _random(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, number], counter=[0, 0, 0, purpose]))

    def _number(self, index: int) -> int:
        """The segment that draw `index` asks for."""
        epoch, place = divmod(index, len(self.segments))
        if epoch not in self._orders:
            # Two are kept: a batch may lie across the end of an epoch.
            self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
            self._orders[epoch] = self._random(_ORDER, epoch).permutation(len(self.segments))
        return int(self._orders[epoch][place])

    def _draw(self, index: int) -> tuple[int, int, SegmentSample]:
        """Segment number, first frame and content of a draw."""
        number, others = self._number(index), self._random(_REPLACE, index)
        for _ in range(_ATTEMPTS):
            sample = self._try(number)
            if sample is not None:
                random = self._random(_START, index)
                at_start, last = random.random() < self.first_share, sample.video.shape[1] - self.window_frames
                at_start = at_start or last <= 0 or sample.alone is not None
                return number, 0 if at_start else int(random.integers(last + 1)), sample
            number = int(others.integers(len(self.segments)))
        raise FailedError(
            f"draw {index}: none of {_ATTEMPTS} segments could be read, {len(self.bad.reasons)} are known to be bad; "
            f"the last: {self.reasons[-1]}"
        )

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Draw `index`: `video` [C, F, H, W]; `action` and `executed` (the same) [A, F, N, 1]; `action_mask` bool, as
        `action`; `video_mask` bool [1, F, 1, 1]; `text` [L, D]; `index`; `alone` [C, H, W] where there is one."""
        index = int(index)
        _, start, sample = self._draw(index)
        frames, wanted = sample.video.shape[1], torch.arange(start, start + self.window_frames)
        at, real = wanted.clamp(max=frames - 1), (wanted < frames)[None, :, None, None]
        action = sample.action[:, at] * real
        # Nobody executed anything before a window's observation.
        action[:, 0] = sample.action[:, 0]
        dropped = self._random(_TEXT, index).random() < self.text_dropout
        return {
            "video": sample.video[:, at],
            "action": action,
            "executed": action,
            "action_mask": sample.mask[:, at] & real,
            "video_mask": real,
            "text": self.null_text if dropped else sample.text,
            "index": torch.tensor(index),
            **({} if sample.alone is None else {"alone": sample.alone}),
        }

    def sample(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Draws samples, stacked in front as `__getitem__` gives them."""
        drawn = [self[int(index)] for index in indices]
        return {key: torch.stack([one[key] for one in drawn]) for key in drawn[0]}

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Draws a `Batch` that a method can be given; frame 0 is given, as at rollout."""
        return to_batch(self.sample(indices), self.null_text)

    def collate(self, samples: Sequence[dict[str, Tensor]]) -> Batch:
        """For a DataLoader: puts single samples together."""
        return to_batch({key: torch.stack([one[key] for one in samples]) for key in samples[0]}, self.null_text)

    def describe(self, index: int) -> str:
        """Says which window draw `index` is, for error messages."""
        number, start, _ = self._draw(int(index))
        return f"{self.segments[number]} from latent frame {start}"
