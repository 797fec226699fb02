# SPDX-License-Identifier: Apache-2.0
"""Samples of a data set: where one begins, and how stacked ones become what a method is given."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flashwam.core.batch import Batch

__all__ = ["SENSE", "Window", "to_batch"]

SENSE = "sense/"
"""Before the name of a sense, among the tensors of a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The beginning of a window.

    Attributes:
        repo: Folder of its task.
        episode: Episode number.
        row: Control step of its first frame.
        frame: Latent frame of the episode that this is.
    """

    repo: Path
    episode: int
    row: int
    frame: int


def to_batch(samples: dict[str, Tensor], null_text: Tensor) -> Batch:
    """Turns stacked samples into what a method is given: executed actions as history, frame 0 as the observation.

    Where a sample has its first picture encoded `alone`, that is what was observed, as at rollout.
    """
    seen = samples["video"]
    if "alone" in samples:
        seen = torch.cat([samples["alone"][:, :, None], seen[:, :, 1:]], dim=2)
    given = torch.zeros(samples["video"].shape[0], samples["video"].shape[2], dtype=torch.bool)
    given[:, 0] = True
    return Batch(
        clean={"video": samples["video"], "action": samples["action"]},
        history={
            "video": seen,
            "action": samples["executed"],
            **{name.removeprefix(SENSE): x for name, x in samples.items() if name.startswith(SENSE)},
        },
        # Nobody executed the observation's actions, whether or not the model predicts that frame.
        mask={"video": samples["video_mask"], "action": samples["action_mask"] & ~given[:, None, :, None, None]},
        given=given,
        text=samples["text"],
        null_text=null_text,
        index=samples["index"],
    )
