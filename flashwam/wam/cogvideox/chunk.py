# SPDX-License-Identifier: Apache-2.0
"""One chunk of CogVideoX with actions: its layout, and the action tokens among the slots between its frames.

Letters: B samples, A action channels, F latent frames with the observed one, N actions per frame, K action tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from flashwam.system.errors import InputError
from flashwam.wam.cogvideox.config import CogVideoXConfig
from flashwam.wam.layout import Layout

__all__ = ["action_slots", "action_tokens", "check_chunk", "chunk_layout"]


def chunk_layout(config: CogVideoXConfig, *, channels: int, text_shape: tuple[int, int]) -> Layout:
    """The layout of a model: both streams in the same passes, the observation as a condition, one level a stream.

    Args:
        config: Shape of a chunk.
        channels: Of the video latents.
        text_shape: (L, D) of the text; prompts are padded to that length, and the padding is attended to.
    """
    # Masks of a model that is made on the meta device are real all the same.
    token = torch.arange(config.action_slots, device="cpu") < config.action_tokens
    slots = pad(token, (config.actions_per_frame, 0)).unflatten(0, (config.chunk_frames, -1))
    predicted = {"action": slots[None, :, :, None]}
    if config.conditioning == "prefix":
        predicted["video"] = (torch.arange(config.chunk_frames, device="cpu") > 0)[None, :, None, None]
    return Layout(
        streams=("video", "action"),
        shapes={
            "video": (channels, *config.latent_size),
            "action": (config.action_dim, config.actions_per_frame, 1),
        },
        chunk_frames=config.chunk_frames,
        stages=(("video", "action"),),
        conditions_on_first=True,
        execute_frames=config.execute_frames,
        frame_levels=False,
        predicted=predicted,
        text_shape=text_shape,
    )


def action_tokens(config: CogVideoXConfig, action: Tensor) -> Tensor:
    """[B, A, F, N, 1] -> [B, K, A]: the slots between the frames, in time order, as many as are drawn."""
    return action[:, :, 1:].flatten(2)[:, :, : config.action_tokens].transpose(1, 2)


def action_slots(config: CogVideoXConfig, tokens: Tensor) -> Tensor:
    """Inverse of `action_tokens`, zero where there is no token."""
    empty = (config.actions_per_frame, config.action_slots - config.action_tokens)
    slots = pad(tokens.transpose(1, 2), empty)
    return slots.unflatten(2, (config.chunk_frames, config.actions_per_frame))[..., None]


def check_chunk(
    layout: Layout,
    noisy: Mapping[str, Tensor],
    sigma: Mapping[str, Tensor],
    clean: Mapping[str, Tensor],
    context: Mapping[str, Any],
) -> None:
    """Refuses what is not one whole chunk of both streams.

    Raises:
        ValueError: The sentence names the stream, what was expected and what came.
    """
    if set(noisy) != set(layout.streams):
        raise InputError(f"this family draws {layout.streams} together; noisy has {tuple(noisy)}")
    frames = context.get("chunk_frames") or layout.chunk_frames
    if frames != layout.chunk_frames:
        raise InputError(f"this network's chunks have {layout.chunk_frames} frames; asked for {frames}")
    for name, x in noisy.items():
        channels, *size = layout.shapes[name]
        if x.ndim != 5 or tuple(x.shape[1:]) != (channels, frames, *size):
            expected = f"[B, {channels}, {frames}, {size[0]}, {size[1]}]"
            raise InputError(f"noisy {name} must be {expected}, one chunk; got {tuple(x.shape)}")
        level = sigma[name]
        if level.shape != (x.shape[0], frames):
            raise InputError(f"sigma of {name} must be {(x.shape[0], frames)}, got {tuple(level.shape)}")
    video = clean["video"]
    if video.shape[2] < frames or (video.shape[0], video.shape[1]) != tuple(noisy["video"].shape[:2]):
        raise InputError(f"clean video must have at least {frames} frames, got {tuple(video.shape)}")
