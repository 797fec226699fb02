# SPDX-License-Identifier: Apache-2.0
"""Futures of recorded pasts, as a teacher draws them from noise that is known.

Letters: B samples, C channels, F latent frames of a window, H and W the rest of a stream's tokens.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flashwam.core.batch import Batch
from flashwam.distillation.adapted_model import HELD, AdaptedModel
from flashwam.sampling import Rollout, StreamSampler
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["Future", "TeacherFuture", "seeded_noise", "stacked_noise", "weights_hash"]


def seeded_noise(seed: int, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The noise of one window: unit Gaussian, in the streams' order, shaped as `like`, [C, F, H, W] each."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(x.shape, generator=generator) for name, x in like.items()}


def stacked_noise(seeds: Sequence[int], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The noise of B windows, each from its seed, see `seeded_noise`: [B, C, F, H, W]."""
    noise = [seeded_noise(seed, like) for seed in seeds]
    return {name: torch.stack([one[name] for one in noise]) for name in like}


_SINGLE = 2**24
"""Up to here every whole number is one of single precision."""


class Future(ABC):
    """A source of the video and actions that follow a window's past."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that determine what it says, given window and noise."""

    def unnamed(self) -> dict[str, Any]:
        """Plain values that determine what it says too, though what it says is not kept by them; none by default."""
        return {}

    @abstractmethod
    def draw(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Windows, and noise [B, C, F', H, W] of their last F' frames -> stream name -> such frames, on the CPU."""


class TeacherFuture(Future):
    """The trajectories that a teacher draws in all its steps, actions under its own video.

    Args:
        teacher: The world-action model.
        samplers: How its streams are drawn.
    """

    def __init__(self, teacher: WorldActionModel, samplers: Mapping[str, StreamSampler]) -> None:
        self._teacher, self._samplers = teacher, dict(samplers)

    def settings(self) -> dict[str, Any]:
        """See `Future.settings`."""
        run = dict(self._teacher.drawn_with)
        return {
            "teacher": weights_hash(self._teacher),
            "chunk_frames": self._teacher.chunk_frames,
            # Left out where there is none, so that what earlier versions drew keeps its name.
            **({"run": run} if run else {}),
            "samplers": {name: sampler.settings for name, sampler in self._samplers.items()},
        }

    def unnamed(self) -> dict[str, Any]:
        """See `Future.unnamed`: what the folder of the weights says of their draws."""
        return dict(self._teacher.decided_by)

    @torch.no_grad()
    def draw(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Future.draw`; the same chunks as in a closed loop whose every observation is the recorded one."""
        teacher, size = self._teacher, self._teacher.chunk_frames
        device = next(teacher.parameters()).device
        batch = batch.to(device)
        ahead = int(teacher.conditions_on_first)
        drawn_frames = next(iter(noise.values())).shape[2]
        if batch.frames % size or drawn_frames % size or (ahead and batch.frames != size):
            whole = f"one chunk of {size}" if ahead else f"whole chunks of {size}"
            raise InputError(f"a rollout needs {whole} latent frames; got {batch.frames}: see data.window_frames")
        chunks, begin = batch.frames // size, (batch.frames - drawn_frames) // size
        # What it is told beside its streams, too.
        observed = {name: batch.history[name] for name in teacher.layout.observed_shapes}
        rollout = Rollout(
            teacher,
            self._samplers,
            text=batch.text,
            null_text=batch.null_text,
            first={name: x[:, :, :1] for name, x in observed.items()},
        )
        drawn: dict[str, list[Tensor]] = {name: [] for name in teacher.streams}
        for k in range(chunks):
            if k >= begin:
                at = slice((k - begin) * size, (k - begin + 1) * size)
                for name, x in rollout.predict({name: x[:, :, at].to(device) for name, x in noise.items()}).items():
                    drawn[name].append(x)
            if k + 1 < chunks:
                at = slice(k * size, (k + 1) * size)
                rollout.observe({name: x[:, :, at] for name, x in observed.items()})
        return {name: torch.cat(parts, 2).float().cpu() for name, parts in drawn.items()}


def weights_hash(model: nn.Module) -> str:
    """Tells a model from another by name, shape and 64 evenly spread values of every tensor; the backbone of adapters
    is the model that it was."""
    made = hashlib.sha256()
    held = model.state_dict()
    if isinstance(model, AdaptedModel):
        held = {name.removeprefix(f"{HELD}."): x for name, x in held.items()}
    for name, x in sorted(held.items()):
        flat = x.detach().flatten()
        some = flat[_spread(flat.numel()).to(flat.device)]
        made.update(f"{name} {tuple(x.shape)} {some.double().cpu().tolist()}".encode())
    return made.hexdigest()


def _spread(count: int) -> Tensor:
    """At most 64 places among `count`, evenly spread, the first and the last among them."""
    # Beyond, not every place is a number of single precision, by which smaller tensors have been told from the first.
    dtype = torch.float32 if count <= _SINGLE else torch.float64
    return torch.linspace(0, max(0, count - 1), min(64, count), dtype=dtype).long()
