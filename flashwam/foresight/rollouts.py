# SPDX-License-Identifier: Apache-2.0
"""Draws of a teacher from known seeds: latents, pictures and actions of one trajectory, kept on disk.

Letters: B samples, C channels, F latent frames of a window, H and W the rest of a stream's tokens, P pictures.
"""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from flashwam.core.batch import Batch
from flashwam.data.pictures import PictureDecoder
from flashwam.sampling import Rollout, StreamSampler
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import read_header, write_tensors
from flashwam.wam.base import WorldActionModel

__all__ = ["Future", "RolloutStore", "TeacherFuture", "TeacherRollout", "TrueFuture", "seeded_noise"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRollout:
    """One window's chunks, each drawn under the true past.

    Args:
        seed: Of the noise, see `seeded_noise`.
        settings: Hash of what drew it: the teacher's weights and its samplers.
        drawn: Stream name -> [C, F, H, W].
        video: The drawn video's pictures, uint8 [P, height, width, 3].
    """

    seed: int
    settings: str
    drawn: Mapping[str, Tensor]
    video: Tensor


def seeded_noise(seed: int, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The noise of one window: unit Gaussian, in the streams' order, shaped as `like`, [C, F, H, W] each."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(x.shape, generator=generator) for name, x in like.items()}


class Future(ABC):
    """A source of the video that follows a window's past."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that determine what it says, given window and noise."""

    @abstractmethod
    def draw(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Windows and noise [B, C, F, H, W] -> stream name -> [B, C, F, H, W], on the CPU."""


class TrueFuture(Future):
    """The recorded trajectories, whatever the noise, against which self-distillation is measured."""

    def settings(self) -> dict[str, Any]:
        """See `Future.settings`."""
        return {"future": "recorded"}

    def draw(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Future.draw`."""
        return {name: x.cpu() for name, x in batch.clean.items()}


class TeacherFuture(Future):
    """The trajectories that a teacher draws in all its steps.

    Args:
        teacher: The world-action model.
        samplers: How its streams are drawn.
    """

    def __init__(self, teacher: WorldActionModel, samplers: Mapping[str, StreamSampler]) -> None:
        self._teacher, self._samplers = teacher, dict(samplers)

    def settings(self) -> dict[str, Any]:
        """See `Future.settings`."""
        return {
            "teacher": weights_hash(self._teacher),
            "chunk_frames": self._teacher.chunk_frames,
            "samplers": {
                name: {
                    "schedule": dict(sampler.schedule.config),
                    "function": dict(sampler.consistency.config),
                    "steps": sampler.steps,
                    "guidance_scale": float(sampler.guidance_scale),
                }
                for name, sampler in self._samplers.items()
            },
        }

    @torch.no_grad()
    def draw(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Future.draw`; the same chunks as in a closed loop whose every observation is the recorded one."""
        teacher, size = self._teacher, self._teacher.chunk_frames
        device = next(teacher.parameters()).device
        batch = batch.to(device)
        ahead = int(teacher.conditions_on_first)
        chunks = batch.frames // size
        if batch.frames % size or (ahead and chunks != 1):
            whole = f"one chunk of {size}" if ahead else f"whole chunks of {size}"
            raise InputError(f"a rollout needs {whole} latent frames; got {batch.frames}: see data.window_frames")
        rollout = Rollout(
            teacher,
            self._samplers,
            text=batch.text,
            null_text=batch.null_text,
            first={name: batch.history[name][:, :, :1] for name in teacher.streams},
        )
        drawn: dict[str, list[Tensor]] = {name: [] for name in teacher.streams}
        for k in range(chunks):
            at = slice(k * size, (k + 1) * size)
            for name, x in rollout.predict({name: x[:, :, at].to(device) for name, x in noise.items()}).items():
                drawn[name].append(x)
            if k + 1 < chunks:
                rollout.observe({name: batch.history[name][:, :, at] for name in teacher.streams})
        return {name: torch.cat(parts, 2).float().cpu() for name, parts in drawn.items()}


def weights_hash(model: nn.Module) -> str:
    """Tells a model from another by name, shape and 64 evenly spread values of every tensor."""
    made = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        flat = x.detach().flatten()
        some = flat[torch.linspace(0, max(0, flat.numel() - 1), min(64, flat.numel())).long().to(flat.device)]
        made.update(f"{name} {tuple(x.shape)} {some.double().cpu().tolist()}".encode())
    return made.hexdigest()


class RolloutStore:
    """Rollouts by what determines them: `<folder>/<settings>/<window and seed>.safetensors`.

    A file appears whole or not at all, so a killed run goes on where it was.

    Args:
        folder: Of all rollouts.
        future: What makes those that are missing.
        decoder: Gives their pictures.
        batch_size: Windows drawn at once.
    """

    def __init__(self, folder: Path | str, future: Future, decoder: PictureDecoder, *, batch_size: int = 16) -> None:
        self._future, self._decoder, self.batch_size = future, decoder, batch_size
        settings = json.dumps(future.settings(), sort_keys=True)
        self.settings = hashlib.sha256(settings.encode()).hexdigest()[:16]
        self.folder = user_path(folder) / self.settings
        if not (self.folder / "settings.json").is_file():
            write_whole(self.folder / "settings.json", settings.encode())

    def key(self, batch: Batch, row: int, seed: int) -> str:
        """Name of one rollout: a hash of all that the teacher is shown, and the seed."""
        made = hashlib.sha256(str(seed).encode())
        for part in (*batch.history.values(), *batch.clean.values(), batch.text):
            made.update(part[row].cpu().contiguous().numpy().tobytes())
        made.update(batch.null_text.cpu().contiguous().numpy().tobytes())
        return made.hexdigest()[:32]

    def path(self, key: str) -> Path:
        """File of one rollout."""
        return self.folder / f"{key}.safetensors"

    def read(self, key: str) -> TeacherRollout:
        """One rollout.

        Raises:
            FileNotFoundError: it was not made yet.
            ValueError: it was made by another teacher or sampler.
        """
        path = self.path(key)
        if not path.is_file():
            raise MissingFileError(f"{path} is missing: complete the rollouts first")
        read_header(path)
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get("settings") != self.settings:
                raise InputError(f"{path} was drawn under settings {told.get('settings')}, expected {self.settings}")
            held = {name: file.get_tensor(name) for name in file.keys()}
        video = held.pop("video/pictures")
        return TeacherRollout(seed=int(told["seed"]), settings=told["settings"], drawn=held, video=video)

    def complete(self, windows: Sequence[tuple[Batch, Sequence[int]]], *, progress: bool = True) -> list[str]:
        """Makes what is missing.

        Args:
            windows: Batches, each with the seed of every sample.
            progress: Show a bar with the time left.

        Returns:
            The key of every sample, in order.
        """
        keys = [[self.key(batch, row, seed) for row, seed in enumerate(seeds)] for batch, seeds in windows]
        total = sum(map(len, keys))
        done = sum(self.path(key).is_file() for part in keys for key in part)
        logger.info("%d rollouts of %d are in %s", done, total, self.folder)
        with tqdm(total=total, initial=done, desc="rollouts", unit="window", disable=not progress) as bar:
            for (batch, seeds), part in zip(windows, keys, strict=True):
                missing = [row for row, key in enumerate(part) if not self.path(key).is_file()]
                for begin in range(0, len(missing), self.batch_size):
                    rows = missing[begin : begin + self.batch_size]
                    self._make(batch, rows, [seeds[row] for row in rows], [part[row] for row in rows])
                    bar.update(len(rows))
        return [key for part in keys for key in part]

    def _make(self, batch: Batch, rows: Sequence[int], seeds: Sequence[int], keys: Sequence[str]) -> None:
        chosen = batch.rows(rows)
        single = [{name: x[k] for name, x in chosen.clean.items()} for k in range(len(rows))]
        noise = [seeded_noise(seed, like) for seed, like in zip(seeds, single, strict=True)]
        together = {name: torch.stack([one[name] for one in noise]) for name in chosen.clean}
        drawn = self._future.draw(chosen, together)
        pictures = self._decoder.pictures(drawn["video"]).cpu()
        for k, (seed, key) in enumerate(zip(seeds, keys, strict=True)):
            held = {name: x[k] for name, x in drawn.items()}
            held["video/pictures"] = pictures[k]
            write_tensors(self.path(key), held, metadata={"seed": str(seed), "settings": self.settings})
