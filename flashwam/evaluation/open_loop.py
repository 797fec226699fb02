# SPDX-License-Identifier: Apache-2.0
"""Open-loop measures: what a model draws on held-out windows, against the teacher's draw from the same noise.

Letters: B windows, D draws a window, K chunks, C channels, F frames of a chunk, H and W the rest of a stream's tokens.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from flashwam.core.batch import Batch
from flashwam.sampling import Rollout, StreamSampler
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["chunk_draws", "open_loop_measures", "window_draws"]


def _repeat(x: Tensor, draws: int) -> Tensor:
    return x.repeat_interleave(draws, 0)


def chunk_draws(
    wam: WorldActionModel,
    samplers: Mapping[str, StreamSampler],
    batch: Batch,
    *,
    draws: int = 4,
    seed: int = 0,
    replace: Sequence[Mapping[str, Tensor]] | None = None,
    chunks: int | None = None,
) -> list[dict[str, Tensor]]:
    """Draws every chunk of every window `draws` times, each under the true past.

    The noise depends on `seed` and the shapes alone, so two models are compared from the same noise.

    Args:
        batch: B windows whose frame 0 is given.
        draws: D.
        replace: Per chunk, streams to take from elsewhere instead of drawing them.
        chunks: Chunks to draw; all that fit into the window if None.

    Returns:
        Per chunk: stream name -> [B * D, C, F, H, W], draws of one window adjacent.
    """
    size = wam.chunk_frames
    total = batch.frames // size if chunks is None else chunks
    if total < 1 or total * size > batch.frames:
        raise InputError(f"windows of {batch.frames} frames do not hold {max(total, 1)} chunks of {size} frames")
    rollout = Rollout(
        wam,
        samplers,
        text=_repeat(batch.text, draws),
        null_text=batch.null_text,
        # What is observed at rollout: where a clip was encoded whole, its first picture by itself.
        first={name: _repeat(batch.history[name][:, :, :1], draws) for name in (*wam.streams, *wam.senses)},
        generator=torch.Generator().manual_seed(seed),
    )
    drawn = []
    # What is observed before the next chunk: its own first frame too, where that is its condition.
    ahead = int(wam.conditions_on_first)
    for k in range(total):
        drawn.append(rollout.predict(replace=None if replace is None else replace[k]))
        past = slice(k * size + ahead, (k + 1) * size + ahead)
        names = wam.layout.observed_shapes
        rollout.observe({name: _repeat(batch.history[name][:, :, past], draws) for name in names})
    return drawn


def window_draws(
    wam: WorldActionModel,
    samplers: Mapping[str, StreamSampler],
    batch: Batch,
    *,
    draws: int,
    seed: int,
    label: str | None = None,
) -> list[dict[str, Tensor]]:
    """`chunk_draws` window after window, so that memory and noise are one window's; on the CPU, in float32.

    Args:
        wam, samplers, batch, draws: As for `chunk_draws`; the windows may lie elsewhere than the model.
        seed: Of the first window's noise, the next one has the next. So seeds that lie nearer to each other than there
            are windows share noises, on other windows.
        label: Of a bar that shows progress; no bar if None.
    """
    device = next(wam.parameters()).device
    found: list[list[dict[str, Tensor]]] = []
    for row in tqdm(range(batch.size), desc=label, unit="window", disable=label is None):
        one = batch.rows([row]).to(device)
        chunks = chunk_draws(wam, samplers, one, draws=draws, seed=seed + row)
        found.append([{name: x.float().cpu() for name, x in chunk.items()} for chunk in chunks])
    firsts = enumerate(found[0])
    return [{name: torch.cat([window[k][name] for window in found]) for name in first} for k, first in firsts]


def open_loop_measures(
    drawn: list[dict[str, Tensor]],
    reference: list[dict[str, Tensor]],
    batch: Batch,
    *,
    draws: int,
) -> dict[str, float]:
    """Errors and spread of draws, keyed `<stream>_<measure>`, of the streams that both sides drew.

    `_error_teacher`: mean squared difference to `reference` (same noise). `_error_expert`: to the data.
    `_variance_ratio`: variance over the draws of one window, over the reference's; near 0 is collapse.
    All are of latents; `flashwam.evaluation.decoded` looks at pictures. A stream with no element that
    counts has none.

    Args:
        drawn, reference: As `chunk_draws` returns them.
        batch: The windows they were drawn on, restricted to what the model puts out: elsewhere its draws are noise.
        draws: D of both.
    """
    measures = {}
    for name in (name for name in drawn[0] if name in reference[0]):
        error = expert = spread = reference_spread = count = 0.0
        for k, (ours, theirs) in enumerate(zip(drawn, reference, strict=True)):
            frames = ours[name].shape[2]
            window = slice(k * frames, (k + 1) * frames)
            truth = batch.clean[name][:, :, window]
            mask = batch.loss_mask(name).expand_as(batch.clean[name])[:, :, window].to(truth.dtype)
            groups = [t[name].reshape(truth.shape[0], draws, *truth.shape[1:]) for t in (ours, theirs)]
            weight = mask[:, None]
            error += float(((groups[0] - groups[1]) ** 2 * weight).sum()) / draws
            expert += float(((groups[0] - truth[:, None]) ** 2 * weight).sum()) / draws
            count += float(mask.sum())
            if draws > 1:
                spread += float((groups[0].var(1) * mask).sum())
                reference_spread += float((groups[1].var(1) * mask).sum())
        if not count:
            continue
        measures[f"{name}_error_teacher"] = error / count
        measures[f"{name}_error_expert"] = expert / count
        if reference_spread > 0:
            measures[f"{name}_variance_ratio"] = spread / reference_spread
    return measures
