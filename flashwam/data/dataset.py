# SPDX-License-Identifier: Apache-2.0
"""Training samples: random windows of latent frames with the actions between them, all held in memory.

Letters: B samples, C latent channels, A action channels, F latent frames of a window, N actions per latent frame,
L text tokens, D text width. Action frame j holds the N controls executed between latent frames j - 1 and j; frame 0 of
a window is its observation, so its actions are padding: zero and masked.
"""

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flashwam.core.batch import Batch
from flashwam.data.actions import ActionNorm, read_norm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.episodes import episode_path, read_episode_list, read_table
from flashwam.data.latents import ACTION_NORM, latent_path, read_empty_text
from flashwam.data.own_latents import OwnLatents
from flashwam.data.samples import SENSE, Window, to_batch
from flashwam.data.segments import NoEpisodesError, is_held_out, repos_by_name
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.paths import user_path

__all__ = ["EpisodeDataset"]

logger = logging.getLogger(__name__)


def _side_by_side(views: list[Tensor]) -> Tensor:
    return torch.cat(views, dim=-1)


class EpisodeDataset(Dataset):
    """Windows that begin at any latent frame of any episode. Draw i is a function of (seed, i) alone.

    Args:
        root: Folder of the repos; holds `action_norm.json` and `empty_emb.pt` too.
        window_frames: F. Windows that reach past the end repeat the last frame, with masked actions and video.
        tasks: Names of repo folders; None for all.
        split: Which episodes: "train", "val", or "all".
        val_every: One episode in so many belongs to "val"; None: one in 20.
        seed: Of the draws.
        draws: What `len` says: how many samples a run draws. None takes the number of windows.
        balance: Draw every task equally often, however many episodes it has.
        first_share: Share of draws that begin where an episode begins, which is where a way is chosen; the rest begin
            anywhere.
        norm: Action normalisation; None reads `action_norm.json`.
        cameras: Camera keys; None takes all there are.
        arrange: Puts the cameras' latents [C, F, h, w] together; side by side by default.
        limit: At most so many episodes per repo.
        senses: What else is told of every latent frame: columns `observation.<name>` of the tables, unnormalised.
        autoencoder: The model's; latents that another made are made anew in memory. None takes them as they are.

    Attributes:
        autoencoders: Fingerprints of those that made the latents, None among them where a file does not tell.

    Raises:
        FileNotFoundError, ValueError: Something is missing or damaged; the message names the file and the reason.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        window_frames: int,
        tasks: Sequence[str] | None = None,
        split: Literal["train", "val", "all"] = "train",
        val_every: int | None = None,
        seed: int = 0,
        draws: int | None = None,
        balance: bool = False,
        first_share: float = 0.0,
        norm: ActionNorm | None = None,
        cameras: Sequence[str] | None = None,
        arrange: Callable[[list[Tensor]], Tensor] = _side_by_side,
        limit: int | None = None,
        senses: Sequence[str] = (),
        autoencoder: FrameAutoencoder | None = None,
    ) -> None:
        _check_choices(window_frames, first_share=first_share, split=split)
        self.root, self.window_frames, self.seed = user_path(root), window_frames, seed
        self.balance, self.first_share, self.senses = balance, first_share, tuple(senses)
        self._folders = repos_by_name(self.root, tasks)
        self._rows: list[tuple[int, int]] = []
        self.null_text = read_empty_text(self.root)
        self.norm = norm if norm is not None else self._read_norm()
        self.tasks: list[str] = []
        self.autoencoders: set[str | None] = set()
        read = partial(self._read_segment, cameras=cameras, arrange=arrange, own=OwnLatents(autoencoder))
        self._texts: list[Tensor] = []
        video, label, executed = [], [], []
        sensed: dict[str, list[Tensor]] = {name: [] for name in self.senses}
        episodes: list[tuple[int, int, int, int, int, int]] = []
        offset = 0
        for repo in self._folders:
            self.tasks.append(repo.name)
            for episode in _of_split(read_episode_list(repo), split, val_every or 20)[:limit]:
                for segment in episode["action_config"]:
                    latents, text, actions, done, told = read(repo, episode, segment)
                    video.append(latents)
                    label.append(actions)
                    executed.append(done)
                    for name, rows in told.items():
                        sensed[name].append(rows)
                    frames, way = latents.shape[0], int(episode.get("way", -1))
                    key = (len(self.tasks) - 1, episode["episode_index"], way, offset, frames)
                    episodes.append((*key, self._text_id(text)))
                    offset += frames
        if not episodes:
            remedy = "collect more, or lower data.held_out_every"
            raise NoEpisodesError(f"no episodes for split {split!r} below {self.root}: {remedy}")
        shapes = {(tuple(v.shape[1:]), a.shape[1:]) for v, a in zip(video, label, strict=True)}
        if len(shapes) > 1:
            raise InputError(f"episodes below {self.root} differ in latent or action shape: {sorted(map(str, shapes))}")
        self._video, self._label, self._executed = torch.cat(video), torch.cat(label), torch.cat(executed)
        self._sensed = {name: torch.cat(rows) for name, rows in sensed.items()}
        self.episodes = torch.tensor(episodes)
        """[E, 6]: task, episode index, way, first frame in memory, frames, text."""
        self._index_windows()
        self.draws = len(self._windows) if draws is None else draws

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The samples' shapes, as `flashwam.data.segment_sample.SegmentSample.shapes` tells them."""
        return {
            "video": tuple(self._video.shape[1:]),
            "action": (*self._label.shape[1:], 1),
            "text": tuple(self._texts[0].shape),
            **{f"{SENSE}{name}": tuple(rows.shape[1:]) for name, rows in self._sensed.items()},
        }

    def fingerprint(self) -> str:
        """Tells these samples from others: every number that is held, and how actions are normalised."""
        tensors = {"video": self._video, "label": self._label, "executed": self._executed, "null": self.null_text}
        tensors |= {f"text {number}": text for number, text in enumerate(self._texts)}
        tensors |= {f"sense {name}": rows for name, rows in self._sensed.items()}
        digest = hashlib.sha256(json.dumps(self.norm.to_dict(), sort_keys=True).encode())
        for name, value in {**tensors, "episodes": self.episodes}.items():
            digest.update(f"{name} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _read_norm(self) -> ActionNorm:
        path = self.root / ACTION_NORM
        if not path.is_file():
            raise MissingFileError(f"{path} is missing: encode the episodes first, or give norm=")
        return read_norm(path)

    def _text_id(self, text: Tensor) -> int:
        for number, known in enumerate(self._texts):
            if torch.equal(known, text):
                return number
        self._texts.append(text)
        return len(self._texts) - 1

    def _read_segment(
        self,
        repo: Path,
        episode: dict[str, Any],
        segment: dict[str, Any],
        cameras: Sequence[str] | None,
        arrange: Callable[[list[Tensor]], Tensor],
        own: OwnLatents,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Latents [F, C, h, w], text [L, D], labelled and executed actions [F, A, N], senses [F, S] by name."""
        index, start, end = episode["episode_index"], int(segment["start_frame"]), int(segment["end_frame"])
        folder = latent_path(repo, index, start, end).parents[1]
        keys = sorted(p.name for p in folder.glob("[!.]*") if p.is_dir()) if cameras is None else list(cameras)
        if not keys:
            raise MissingFileError(f"{folder} holds no latents: encode the episodes first")
        views = [own.read(repo, index, start, end, key) for key in keys]
        self.autoencoders |= {view.autoencoder for view in views}
        first = views[0]
        path = episode_path(repo, index)
        columns = {name: f"observation.{name}" for name in self.senses}
        table = read_table(path, ["action", "executed_action", *columns.values()])
        for column in ("action", *columns.values()):
            if column not in table:
                raise InputError(f"{path}: has no column {column!r}")
        latents = arrange([view.latents for view in views]).permute(1, 0, 2, 3).contiguous()
        count, per = latents.shape[0], first.actions_per_frame
        skip = start + (first.first_row - first.start)
        self._rows.append((skip, per))
        out = []
        for name in ("action", "executed_action"):
            rows = table.get(name, table["action"])[skip : skip + (count - 1) * per]
            if len(rows) < (count - 1) * per:
                raise InputError(f"{path}: {count} latent frames need {(count - 1) * per} actions, got {len(rows)}")
            if not np.isfinite(rows).all():
                raise InputError(f"{path}: column {name!r} holds values that are not finite")
            controls = torch.from_numpy(rows.reshape(count - 1, per, -1)).permute(2, 0, 1)
            if len(controls) != len(self.norm.used):
                raise InputError(
                    f"{path}: column {name!r} has {len(controls)} controls, and {len(self.norm.used)} are meant (the "
                    "model's, or those that the actions' normalisation names): give recordings of the robot that the "
                    "model was trained for, or a model of this one"
                )
            actions = self.norm.normalise(controls)[..., 0].permute(1, 0, 2)
            out.append(torch.cat([torch.zeros_like(actions[:1]), actions]))
        told = {name: torch.from_numpy(table[column][skip::per][:count]) for name, column in columns.items()}
        short = [name for name, rows in told.items() if len(rows) < count]
        if short:
            raise InputError(f"{path}: {count} latent frames need as many rows of {short}, {per} control steps apart")
        return latents, first.text, out[0], out[1], told

    def _index_windows(self) -> None:
        """Every (episode, first frame) with at least one frame to come, grouped by task."""
        rows = [
            (number, int(task), start)
            for number, (task, _, _, _, frames, _) in enumerate(self.episodes.tolist())
            for start in range(max(1, frames - 1))
        ]
        self._windows = torch.tensor(rows)
        self._index_pools()

    def _index_pools(self) -> None:
        beginnings = self._windows[self._windows[:, 2] == 0]
        self._pools = [self._by_task(table) for table in (self._windows, beginnings)]

    def beginnings(self, *, several_ways: int = 1) -> "EpisodeDataset":
        """The same samples, each from where its episode begins, see `flashwam.distillation.setup.Beginnings`."""
        twin = copy.copy(self)
        twin.first_share = 1.0
        beginnings = self._windows[self._windows[:, 2] == 0]
        open_way = self.episodes[beginnings[:, 0], 2] >= 0
        if not self.balance:
            twin._pools = [self._pools[0], [torch.cat([beginnings, *[beginnings[open_way]] * (several_ways - 1)])]]
            return twin
        tables = self._by_task(beginnings)
        open_task = [bool((self.episodes[table[:, 0], 2] >= 0).any()) for table in tables]
        often = [table for table, ways in zip(tables, open_task, strict=True) if ways]
        twin._pools = [self._pools[0], [*tables, *often * (several_ways - 1)]]
        return twin

    def seeded(self, seed: int) -> "EpisodeDataset":
        """The same samples, drawn with another seed."""
        twin = copy.copy(self)
        twin.seed = seed
        return twin

    def reaching(self, frames: int) -> "EpisodeDataset":
        """The same samples, of windows that hold more than so many recorded latent frames, see
        `flashwam.distillation.setup.Reaching`."""
        twin = copy.copy(self)
        twin._windows = self._windows[self._windows[:, 2] + frames < self.episodes[self._windows[:, 0], 4]]
        if not len(twin._windows):
            longest = int(self.episodes[:, 4].max())
            raise InputError(
                f"no episode below {self.root} has more than {frames} latent frames (the longest has {longest}): lower "
                "data.window_frames"
            )
        twin._index_pools()
        return twin

    def _by_task(self, windows: Tensor) -> list[Tensor]:
        """Gives the tables that a draw chooses from: all windows, or one table per task."""
        if not self.balance:
            return [windows]
        tables = [windows[windows[:, 1] == task] for task in range(len(self.tasks))]
        return [table for table in tables if len(table)]

    def __len__(self) -> int:
        return self.draws

    def _draw(self, index: int) -> Tensor:
        """Episode number, task and first frame of a draw."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        pool = self._pools[int(rng.random() < self.first_share)]
        table = pool[int(rng.integers(len(pool)))]
        return table[int(rng.integers(len(table)))]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.sample([index]).items()}

    def sample(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Draws samples, stacked; far quicker than one by one.

        Args:
            indices: Draw numbers, length B.

        Returns:
            `video` [B, C, F, h, w]; `action` (labels) and `executed` (what was done), [B, A, F, N, 1]; `action_mask`
            bool, as `action`; `video_mask` bool [B, 1, F, 1, 1]; `text` [B, L, D]; `index` [B];
            `sense/<name>` [B, S, F, 1, 1].
        """
        indices = [int(i) for i in indices]
        chosen = torch.stack([self._draw(i) for i in indices])
        return self.windows(chosen[:, 0], chosen[:, 2], torch.tensor(indices))

    def first_windows(self, episodes: Sequence[int] | Tensor | None = None) -> dict[str, Tensor]:
        """The windows at the very start of episodes (numbers into `episodes`; None for all), as `sample` returns."""
        numbers = torch.arange(len(self.episodes)) if episodes is None else torch.as_tensor(episodes)
        return self.windows(numbers, torch.zeros_like(numbers), numbers)

    def windows(self, episode: Tensor, start: Tensor, index: Tensor, *, frames: int | None = None) -> dict[str, Tensor]:
        """Gathers windows by where they begin, as `sample` returns.

        Args:
            episode: Numbers into `episodes`, [B].
            start: Their first latent frames, [B].
            index: What is told as `index`, [B].
            frames: F; `window_frames` if None.
        """
        info = self.episodes[episode]
        first, there = info[:, 3], info[:, 4]
        local = start[:, None] + torch.arange(frames or self.window_frames)
        real = local < there[:, None]
        at = first[:, None] + torch.minimum(local, there[:, None] - 1)
        known = real.clone()
        known[:, 0] = False
        channels = self.norm.mask()[None]
        mask = (known[:, None, :, None, None] & channels).expand(-1, -1, -1, self._label.shape[2], -1)

        def actions(table: Tensor) -> Tensor:
            return table[at].permute(0, 2, 1, 3).unsqueeze(-1) * mask

        return {
            "video": self._video[at].permute(0, 2, 1, 3, 4).contiguous(),
            "action": actions(self._label),
            "executed": actions(self._executed),
            "action_mask": mask.contiguous(),
            "video_mask": real[:, None, :, None, None],
            "text": torch.stack([self._texts[i] for i in info[:, 5].tolist()]),
            "index": index,
            **{f"{SENSE}{name}": rows[at].transpose(1, 2)[..., None, None] for name, rows in self._sensed.items()},
        }

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Draws a `Batch` that a method can be given."""
        return to_batch(self.sample(indices), self.null_text)

    def collate(self, samples: Sequence[dict[str, Tensor]]) -> Batch:
        """For a DataLoader: puts single samples together."""
        return to_batch({key: torch.stack([s[key] for s in samples]) for key in samples[0]}, self.null_text)

    @property
    def tables(self) -> dict[tuple[Path, int], Path]:
        """Folder and number of every episode here -> the table of its rows."""
        listed = [(self._folders[task], episode) for task, episode in self.episodes[:, :2].unique(dim=0).tolist()]
        return {(repo, episode): episode_path(repo, episode) for repo, episode in listed}

    def locate(self, index: int) -> Window:
        """Finds where draw `index` begins."""
        number, task, frame = self._draw(index).tolist()
        first, each = self._rows[number]
        row = first + frame * each
        return Window(repo=self._folders[task], episode=int(self.episodes[number, 1]), row=row, frame=row // each)

    def describe(self, index: int) -> str:
        """Says which window draw `index` is, for error messages."""
        number, task, start = self._draw(int(index)).tolist()
        return f"{self.tasks[task]}/episode_{int(self.episodes[number, 1]):06d} from latent frame {start}"


def _check_choices(window_frames: int, *, first_share: float, split: str) -> None:
    if window_frames < 2:
        raise InputError(f"window_frames must be at least 2 (an observation and what follows), got {window_frames}")
    if not 0 <= first_share <= 1:
        raise InputError(f"first_share must be a share in [0, 1], got {first_share}")
    if split not in ("train", "val", "all"):
        raise InputError(f"split: expected 'train', 'val' or 'all', got {split!r}")


def _of_split(episodes: list[dict[str, Any]], split: str, val_every: int) -> list[dict[str, Any]]:
    return [
        episode
        for episode in episodes
        if split == "all" or is_held_out(episode["episode_index"], val_every) == (split == "val")
    ]
