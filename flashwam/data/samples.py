# SPDX-License-Identifier: Apache-2.0
"""Samples of a data set: where one begins, and how stacked ones become what a method is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.system.errors import InputError

__all__ = ["SENSE", "Window", "check_text", "to_batch"]

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


def check_text(shape: Sequence[int], width: int | None) -> None:
    """Refuses prompts that are embedded otherwise than a model reads them.

    Args:
        shape: (..., L, D) of the prompts.
        width: D of the model; None where it does not say.

    Raises:
        ValueError: They differ.
    """
    if width is not None and shape[-1] != width:
        raise InputError(
            f"text: the data has {shape[-1]} numbers a token, the model takes {width}; embed the prompts with the "
            "model's own text encoder (flashwam convert with its recipe), or give a model that is to be made the "
            "data's width (wam.config, such as text_dim)"
        )


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
