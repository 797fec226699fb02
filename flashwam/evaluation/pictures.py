# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a model imagined: windows beside the real ones, and films of episodes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.system.files import whole_file

__all__ = ["save_film", "save_strip"]

_FILM_COLUMNS = 8
_STRIP_WINDOWS = 3


def save_strip(
    pictures: Callable[[Tensor], np.ndarray],
    batch: Batch,
    models: Sequence[list[dict[str, Tensor]]],
    path: Path,
    *,
    draws: int,
) -> str | None:
    """Writes rows of pictures for the first windows: real ones, then those that each model drew.

    Args:
        pictures: Latents [n, C, F, H, W] -> uint8 [n, F, height, width, 3].
        batch: The windows.
        models: As `chunk_draws` returns them, with the first of a window's draws shown.
        path: Of the PNG.
        draws: Draws of a window.

    Returns:
        The file's name; None where nobody drew a picture.
    """
    models = [drawn for drawn in models if "video" in drawn[0]]
    if not models:
        return None
    rows: list[np.ndarray] = []
    for window in range(min(_STRIP_WINDOWS, batch.size)):
        sources = [
            batch.clean["video"][window : window + 1],
            *(torch.cat([c["video"][window * draws : window * draws + 1] for c in drawn], 2) for drawn in models),
        ]
        rows.extend(pictures(source)[0] for source in sources)
    return _save_rows(rows, 3, path)


def save_film(films: Sequence[np.ndarray], path: Path) -> str:
    """Writes films [2, K, H, W, 3] below each other, in pictures of one size however short they are.

    Returns:
        The file's name.
    """
    return _save_rows([row for film in films for row in film], 2, path, columns=_FILM_COLUMNS)


def _save_rows(rows: Sequence[np.ndarray], together: int, path: Path, *, columns: int = 0) -> str:
    """Writes rows of pictures, each [K, H, W, 3] of any K, with a gap after every `together`; returns the name."""
    import matplotlib.image

    longest = max(columns, *(len(row) for row in rows))
    lines = []
    for i, row in enumerate(rows):
        line = np.concatenate(row, 1)
        lines.append(np.pad(line, ((0, 0), (0, (longest - len(row)) * row.shape[2]), (0, 0)), constant_values=255))
        if (i + 1) % together == 0 and i + 1 < len(rows):
            lines.append(np.full((4, lines[-1].shape[1], 3), 255, np.uint8))
    with whole_file(path) as building:
        matplotlib.image.imsave(building, np.repeat(np.repeat(np.concatenate(lines), 2, 0), 2, 1), format="png")
    return path.name
