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
from flashwam.data.fingerprint import files_fingerprint
from flashwam.data.latents import EMPTY_TEXT, read_empty_text
from flashwam.data.layouts import check_cameras
from flashwam.data.samples import SENSE, Window, to_batch
from flashwam.data.segment_sample import SegmentSample, read_segment
from flashwam.data.segments import NoEpisodesError, find_segments, is_held_out
from flashwam.system.errors import FailedError, InputError, MissingFileError
from flashwam.system.paths import user_path

__all__ = ["SegmentDataset", "Split"]

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "all"]
_ATTEMPTS = 100
_REMEMBERED = 4096
"""Draws whose place is kept, so that who asks for it after the batch reads no file again."""
_ORDER, _REPLACE, _START, _TEXT = range(4)


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
        senses: What else is told of every latent frame: columns `observation.<name>` of the tables, unnormalised.

    Attributes:
        shapes: See `SegmentSample.shapes`; there is an "alone" where every segment is a clip whose first picture was
            encoded alone too, and samples then begin where segments do.
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
        senses: Sequence[str] = (),
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
        self.window_frames, self.seed, self._more_than = window_frames, seed, 0
        self.first_share, self.text_dropout, self.senses = first_share, text_dropout, tuple(senses)
        self.bad = BadFiles(skip=skip_bad)
        if not self.root.is_dir():
            raise MissingFileError(f"{self.root}: no such folder; data.root is where the encoded data sets lie")
        self.null_text = read_empty_text(self.root)
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
        self._places: dict[int, Window] = {}
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
    def of_settings(
        cls, data: Any, norm: ActionNorm, *, split: Split, seed: int, senses: Sequence[str] = ()
    ) -> "SegmentDataset":
        """The samples that a recipe's `data` section describes.

        Args:
            data: The section.
            norm: Of the actions.
            split, seed, senses: See the class.
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
            senses=senses,
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
        return self._drawn_with(first_share=1.0)

    def seeded(self, seed: int) -> "SegmentDataset":
        """The same samples, drawn with another seed."""
        return self._drawn_with(seed=seed)

    def reaching(self, frames: int) -> "SegmentDataset":
        """The same samples, of segments that have more than so many latent frames, see
        `flashwam.distillation.setup.Reaching`; a draw that asks for a shorter one is of another."""
        twin = self._drawn_with(_more_than=frames)
        # Refused here, where somebody can say why it was asked for.
        twin._draw(0)
        return twin

    def _drawn_with(self, **changes: Any) -> "SegmentDataset":
        twin = copy.copy(self)
        vars(twin).update(changes, _orders={}, _places={})
        return twin

    def segment(self, number: int) -> SegmentSample:
        """Reads segment `number` of `segments` whole.

        Raises:
            FileNotFoundError, ValueError: A file is missing, damaged or foreign; the message names file and reason.
        """
        segment = self.segments[number]
        sample = read_segment(
            segment,
            cameras=self.cameras,
            layout=self.layout,
            space=self.space,
            stride=self._stride,
            senses=self.senses,
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
        number, others, short = self._number(index), self._random(_REPLACE, index), 0
        for _ in range(_ATTEMPTS):
            sample = self._try(number)
            if sample is not None and sample.video.shape[1] > self._more_than:
                random = self._random(_START, index)
                at_start, last = random.random() < self.first_share, sample.video.shape[1] - self.window_frames
                at_start = at_start or last <= 0 or sample.alone is not None
                return number, 0 if at_start else int(random.integers(last + 1)), sample
            short += sample is not None
            number = int(others.integers(len(self.segments)))
        if short:
            raise InputError(
                f"{short} segments of {_ATTEMPTS} that were looked at below {self.root} have no more than "
                f"{self._more_than} latent frames, and the others cannot be read: lower data.window_frames"
            )
        raise FailedError(
            f"draw {index}: none of {_ATTEMPTS} segments could be read, {len(self.bad.reasons)} are known to be bad; "
            f"the last: {self.reasons[-1]}"
        )

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Draw `index`: `video` [C, F, H, W]; `action` and `executed` (the same) [A, F, N, 1]; `action_mask` bool, as
        `action`; `video_mask` bool [1, F, 1, 1]; `text` [L, D]; `index`; `alone` [C, H, W] where there is one;
        `sense/<name>` [S, F, 1, 1]."""
        index = int(index)
        number, start, sample = self._draw(index)
        self._remember(index, number, start, sample)
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
            **{f"{SENSE}{name}": told[:, at] for name, told in sample.senses.items()},
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

    @property
    def tables(self) -> dict[tuple[Path, int], Path]:
        """Folder and number of every episode here -> the table of its rows."""
        return {(segment.repo, segment.episode): segment.table for segment in self.segments}

    def locate(self, index: int) -> Window:
        """Finds where draw `index` begins; its frame is counted from its segment's first."""
        index = int(index)
        if index not in self._places:
            self._remember(index, *self._draw(index))
        return self._places[index]

    def _remember(self, index: int, number: int, start: int, sample: SegmentSample) -> None:
        if len(self._places) >= _REMEMBERED:
            self._places.clear()
        segment, each = self.segments[number], sample.action.shape[2]
        self._places[index] = Window(
            repo=segment.repo, episode=segment.episode, row=sample.first_row + start * each, frame=start
        )
