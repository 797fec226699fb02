# SPDX-License-Identifier: Apache-2.0
"""Chunks that a teacher draws where another model stood in closed loop, after the past which that one made."""

from flashwam.data.histories import Histories
from flashwam.distillation.pair_source import Pool
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["own_pasts"]


def own_pasts(histories: Histories, model: WorldActionModel) -> list[Pool]:
    """The places after an episode's first chunk, each as often as it was reached; shares add up to 1.

    The past is what a rollout has there: all chunks since the episode began, or the last picture for a model that is
    told no more.

    Raises:
        ValueError: No episode reached a second chunk.
    """
    size = model.chunk_frames
    if model.conditions_on_first:
        starts = range(model.execute_frames, histories.longest, model.execute_frames)
        found = [(0, histories.standing(frames=size, drawn=size, starts=starts))]
    else:
        found = [
            (chunk, histories.standing(frames=(chunk + 1) * size, drawn=size, starts=[0]))
            for chunk in range(1, histories.longest // size + 1)
        ]
    total = sum(len(windows) for _, windows in found)
    if not total:
        raise InputError(
            f"no recorded episode went on after its first chunk of {size} latent frames: record a better model"
        )
    return [Pool(source=windows, chunk=chunk, share=len(windows) / total) for chunk, windows in found if len(windows)]
