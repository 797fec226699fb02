# SPDX-License-Identifier: Apache-2.0
"""Drawn chunks as a robot's controls, and a few of them in a file for figures."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.evaluation.reference import Chunks
from flashwam.evaluation.trajectories import Drawn
from flashwam.evaluation.windows import Windows
from flashwam.system.files import write_whole

__all__ = ["drawn_controls", "save_trajectories"]

_SHOWN_WINDOWS, _SHOWN_DRAWS = 4, 4


def drawn_controls(drawn: Chunks, reference: Chunks | None, batch: Batch, windows: Windows, *, draws: int) -> Drawn:
    """Drawn and recorded actions as a robot's controls, in the order in which they are executed.

    Args:
        drawn, reference: Of the model and of its teacher; None where there is no teacher.
        batch: The windows, restricted to what the model puts out: elsewhere its draws are noise.
        windows: Say what the actions mean.
        draws: Of every window.
    """
    used, frames = list(windows.norm.used), drawn[0]["action"].shape[2]

    def rows(action: Tensor) -> Tensor:
        """[n, A, F, N, 1] -> [n, F * N, U]."""
        return action[:, used, :, :, 0].permute(0, 2, 3, 1).flatten(1, 2)

    def several(chunks: Chunks) -> Tensor:
        return torch.cat([chunk["action"] for chunk in chunks], 2)

    total = frames * len(drawn)
    recorded = batch.clean["action"][:, :, :total]
    sides = {"student": several(drawn), **({} if reference is None else {"teacher": several(reference)})}
    normalised = {who: rows(action).unflatten(0, (batch.size, draws)).double().numpy() for who, action in sides.items()}

    def raw(action: Tensor) -> np.ndarray:
        """[n, A, F, N, 1] -> [n, F * N, U], in raw units."""
        return windows.norm.denormalise(action).permute(0, 2, 3, 1).flatten(1, 2).numpy()

    shown = {"recorded": windows.names.readable(raw(recorded))}
    for who, action in sides.items():
        values = raw(action)
        values = values.reshape(batch.size, draws, *values.shape[1:])
        shown[who] = windows.names.readable(values, near=shown["recorded"][:, None])
    mask = batch.loss_mask("action").expand_as(batch.clean["action"])[:, used[:1], :total, :, 0]
    per_frame = recorded.shape[3]
    return Drawn(
        student=normalised["student"],
        teacher=normalised.get("teacher"),
        recorded=rows(recorded).double().numpy(),
        shown=shown,
        valid=mask[:, 0].flatten(1, 2).numpy().astype(bool),
        chunk=np.repeat(np.arange(len(drawn)), frames * per_frame),
        turns=windows.names.turns,
    )


def save_trajectories(controls: Drawn, path: Path) -> str:
    """Writes the windows whose draws differ most, as arrays that `flashwam.report.recordings_page` draws; returns the
    file's name."""
    shown = _most_undecided(controls)[:_SHOWN_WINDOWS]
    arrays: dict[str, np.ndarray] = {"window": shown, "valid": controls.valid[shown], "chunk": controls.chunk}
    for who, values in controls.shown.items():
        kept = values[shown] if who == "recorded" else values[shown, :_SHOWN_DRAWS]
        arrays[who] = kept.astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_whole(path, buffer.getvalue())
    return path.name


def _most_undecided(controls: Drawn) -> np.ndarray:
    """Numbers of the windows, those first whose draws differ most: the teacher's, where there is one."""
    draws = controls.student if controls.teacher is None else controls.teacher
    spread = (draws.var(axis=1).mean(axis=-1) * controls.valid).sum(axis=1) / controls.valid.sum(axis=1).clip(1)
    return np.argsort(-spread, kind="stable")
