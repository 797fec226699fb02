# SPDX-License-Identifier: Apache-2.0
"""Trains a tiny geometry transformer on what the simulator knew: every pixel's depth, and where the hand is.

Letters: B samples, F frames of a window, H, W pixels, n patches.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flashwam.data.episodes import find_repos, read_episode_list, read_frames, video_path
from flashwam.data.privileged import privileged_path, read_privileged
from flashwam.swiftvla.geometry import GeometryConfig, GeometryTransformer
from flashwam.system.errors import DivergedError
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import write_torch

__all__ = ["GeometryReader", "train_geometry"]

logger = logging.getLogger(__name__)

_STATE = "training.pt"
_FRAMES = 7
_HELD_OUT = 20


class GeometryReader(nn.Module):
    """A geometry transformer and what reads depth and hand from its features.

    Args:
        config: Of the transformer.
    """

    def __init__(self, config: GeometryConfig) -> None:
        super().__init__()
        self.model = GeometryTransformer(config)
        self.depth = nn.Linear(self.model.channels, config.patch**2)
        self.hand = nn.Linear(self.model.channels, 3)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [B, F, 3, H, W] in [0, 1] -> logarithm of the depth [B, F, H, W], the hand in metres [B, F, 3]."""
        config = self.model.config
        features = self.model(pictures)
        cells = self.depth(features[:, :, config.special :])
        cells = cells.unflatten(-1, (config.patch, config.patch)).unflatten(2, (config.grid, config.grid))
        return cells.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3), self.hand(features[:, :, 0])


class _Episodes:
    """Pictures with their depth and hand, in memory, and windows of them."""

    def __init__(self, root: Path, tasks: Sequence[str] | None, per_repo: int) -> None:
        self.pictures, self.depth, self.hand = [], [], []
        for repo in find_repos(root):
            if tasks is not None and repo.name not in tasks:
                continue
            listed = read_episode_list(repo)
            chosen = np.linspace(0, len(listed) - 1, min(per_repo, len(listed))).astype(int)
            for index in (listed[i]["episode_index"] for i in chosen):
                record = read_privileged(privileged_path(repo, index))
                self.pictures.append(torch.from_numpy(read_frames(video_path(repo, index), record.rows.tolist())))
                self.depth.append(torch.from_numpy(record.depth))
                self.hand.append(torch.from_numpy(record.hand[record.rows]))

    def __len__(self) -> int:
        return len(self.pictures)

    def windows(self, which: np.ndarray, starts: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [B, F, 3, H, W] in [0, 1], logarithms of depth [B, F, H, W], hands [B, F, 3]; ends are repeated."""
        parts: tuple[list[Tensor], ...] = ([], [], [])
        for episode, start in zip(which, starts, strict=True):
            last = len(self.pictures[episode]) - 1
            rows = (int(start * last) + torch.arange(_FRAMES)).clamp(max=last)
            for part, held in zip(parts, (self.pictures, self.depth, self.hand), strict=True):
                part.append(held[episode][rows])
        pictures, depth, hand = map(torch.stack, parts)
        return pictures.permute(0, 1, 4, 2, 3).float() / 255, depth.float().log(), hand


def train_geometry(
    root: Path | str,
    folder: Path | str,
    *,
    config: GeometryConfig | None = None,
    tasks: Sequence[str] | None = None,
    steps: int = 800,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    seed: int = 0,
    per_repo: int = 100,
    checkpoint_every: int = 200,
    progress: bool = True,
) -> GeometryTransformer:
    """Trains a geometry transformer on the episodes below `root`, or loads it if `folder` holds it already.

    Every draw depends on (seed, step) alone, so a killed training goes on to the same weights.

    Args:
        root: Folder of the repos, with privileged records.
        folder: Where the transformer goes.
        config: Its sizes.
        tasks: Names of repo folders; None for all.
        steps: Optimisation steps.
        batch_size: Windows a step.
        learning_rate: Peak of a one-cycle schedule.
        seed: Of weights and draws.
        per_repo: Episodes taken from each repo, spread evenly.
        checkpoint_every: Steps between checkpoints.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: An episode has no privileged record.
        FloatingPointError: The loss is not finite.
    """
    from tqdm import tqdm

    folder, config = user_path(folder), config or GeometryConfig()
    if (folder / "geometry.json").is_file():
        logger.info("geometry transformer found in %s", folder)
        return GeometryTransformer.from_pretrained(folder)
    episodes = _Episodes(user_path(root), tasks, per_repo)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = GeometryReader(config)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    parts = {"reader": reader, "optimizer": optimizer, "schedule": schedule}
    start = 0
    if (folder / _STATE).is_file():
        state = torch.load(folder / _STATE, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        start = int(state["step"])
    for step in tqdm(range(start, steps), initial=start, total=steps, desc="geometry", disable=not progress):
        generator = np.random.default_rng([seed, step])
        which, starts = generator.integers(len(episodes), size=batch_size), generator.random(batch_size)
        pictures, depth, hand = episodes.windows(which, starts)
        drawn_depth, drawn_hand = reader(pictures)
        loss = F.l1_loss(drawn_depth, depth) + F.smooth_l1_loss(drawn_hand, hand, beta=0.02)
        if not torch.isfinite(loss):
            raise DivergedError(f"geometry: the loss is {loss.item()} at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % checkpoint_every == 0 and step + 1 < steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            write_torch(folder / _STATE, {**state, "step": step + 1})
    return _finish(folder, reader, episodes, seed)


def _finish(folder: Path, reader: GeometryReader, episodes: _Episodes, seed: int) -> GeometryTransformer:
    generator = np.random.default_rng([seed, 1 << 30])
    which, starts = generator.integers(len(episodes), size=_HELD_OUT), generator.random(_HELD_OUT)
    pictures, depth, hand = episodes.windows(which, starts)
    with torch.no_grad():
        drawn_depth, drawn_hand = reader.eval()(pictures)
    ratio = float((drawn_depth - depth).abs().mean())
    apart = float((drawn_hand - hand).norm(dim=-1).mean())
    logger.info(
        "geometry %s: depth off by %.1f %%, hand by %.1f cm", asdict(reader.model.config), 100 * ratio, 100 * apart
    )
    reader.model.save_pretrained(folder)
    (folder / _STATE).unlink(missing_ok=True)
    return reader.model.requires_grad_(False)
