# SPDX-License-Identifier: Apache-2.0
"""States that methods train at: their levels, their noise, the chunk they lie in, the guidance of a step.

Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.noise import TRAINING_POINTS, add_noise
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["drawn_after", "guidance_scales", "random_chunk", "start_states", "training_levels"]


def start_states(
    batch: Batch, sigma: Mapping[str, Tensor], draws: Draws
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Noisy states at the given levels; frames that are given at rollout stay clean at sigma 0.

    Args:
        batch: The data.
        sigma: Stream name -> [B, F].
        draws: Of the noise, one purpose per stream.

    Returns:
        Noisy states, levels with the given frames at 0, and the noise, each by stream name.
    """
    noisy, level, noise = {}, {}, {}
    for name, clean in batch.clean.items():
        noise[name] = draws.normal(f"noise/{name}", clean.shape[1:])
        level[name] = sigma[name].masked_fill(batch.given, 0.0)
        noisy[name] = add_noise(clean, noise[name], level[name])
    return noisy, level, noise


def training_levels(
    model: WorldActionModel,
    batch: Batch,
    draws: Draws,
    specs: Mapping[str, StreamSpec],
    *,
    shared: bool = False,
    synchronous: bool = True,
) -> dict[str, Tensor]:
    """Indices into the training grid: stream name -> int64 [B, F].

    Independent between the model's stages, and between frames where the model allows that.

    Args:
        model: Says which streams are drawn together.
        batch: Gives B and F.
        draws: Random numbers.
        specs: The streams.
        shared: One index per frame for the whole step, as LingBot-VA draws; otherwise every sample has its own.
        synchronous: Streams of one stage have the same index, as they do when they are drawn; otherwise each its own.
    """
    frames = batch.frames if model.frame_levels else 1
    levels = {}
    for stage in model.stages:
        for name in stage:
            key = f"level/{stage[0] if synchronous else name}"
            if shared:
                schedule = specs[name].schedule
                index = schedule.sample_indices((1, frames), draws.shared(key)).to(batch.given.device)
            else:
                index = draws.integers(key, 0, TRAINING_POINTS, (frames,))
            levels[name] = index.expand(batch.size, batch.frames)
    return levels


def random_chunk(batch: Batch, length: int, draws: Draws) -> tuple[Batch, int]:
    """The batch up to the end of a random chunk of `length` frames, the same for all samples, and its first frame.

    Raises:
        ValueError: a sample is shorter than a chunk.
    """
    chunks = batch.frames // length
    if chunks < 1:
        raise InputError(f"a sample must hold a whole chunk of {length} latent frames; got {batch.frames}")
    chunk = draws.shared_integer("chunk", 0, chunks)
    return batch.frames_of(slice((chunk + 1) * length)), chunk * length


def drawn_after(history: Tensor, chunk: Tensor, model: WorldActionModel) -> Tensor:
    """Clean slots that end with a drawn chunk, as a later stage sees them in a rollout.

    Args:
        history: [B, C, F', H, W], the true frames, the chunk's among them.
        chunk: [B, C, F, H, W], what was drawn for the last F.
        model: Where it conditions on a chunk's first frame, that one stays what was observed.
    """
    begin = history.shape[2] - chunk.shape[2]
    observed = int(model.conditions_on_first)
    return torch.cat([history[:, :, : begin + observed], chunk[:, :, observed:]], 2)


def guidance_scales(specs: Mapping[str, StreamSpec], draws: Draws) -> dict[str, float]:
    """The guidance scale of every stream that has one, drawn once for the whole step from its range."""
    scales = {}
    for name, spec in specs.items():
        if spec.guidance is not None:
            low, high = spec.guidance
            scales[name] = low + (high - low) * draws.shared_uniform(f"guidance/{name}")
    return scales
