# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a model imagined: windows beside the real ones, and films of episodes."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.data.pictures import PictureDecoder, latent_frames
from flashwam.system.errors import InputError
from flashwam.system.files import whole_file
from flashwam.wam.decoders import find_decoder

__all__ = ["find_pictures", "save_film", "save_strip"]

logger = logging.getLogger(__name__)

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
        pictures: Latents [n, C, F, H, W] -> uint8 [n, P, height, width, 3], P = F or 1 + r (F - 1); one of each latent
            frame is shown, the last of several.
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
        rows.extend(_last_of_each(pictures(source)[0], source.shape[2]) for source in sources)
    return _save_rows(rows, 1 + len(models), path)


def _last_of_each(pictures: np.ndarray, frames: int) -> np.ndarray:
    """The last picture of each latent frame, of [P, height, width, 3]."""
    of = latent_frames(len(pictures), frames)
    return np.asarray(pictures[np.append(np.diff(of) > 0, True)])


def save_film(films: Sequence[np.ndarray], path: Path) -> str:
    """Writes films [2, K, H, W, 3] below each other, in pictures of one size however short they are.

    Returns:
        The file's name.
    """
    return _save_rows([row for film in films for row in film], 2, path, columns=_FILM_COLUMNS)


def _save_rows(rows: Sequence[np.ndarray], together: int, path: Path, *, columns: int = 0) -> str:
    """Writes rows of pictures, each [K, H, W, 3] of any K, with a gap after every `together`; returns the name.

    Gaps and the rest of a short row are transparent, so that they are dark on a dark page.
    """
    import matplotlib.image

    longest = max(columns, *(len(row) for row in rows))
    lines = []
    for i, row in enumerate(rows):
        line = np.concatenate(row, 1)
        opaque = np.pad(line, ((0, 0), (0, 0), (0, 1)), constant_values=255)
        lines.append(np.pad(opaque, ((0, 0), (0, (longest - len(row)) * row.shape[2]), (0, 0))))
        if (i + 1) % together == 0 and i + 1 < len(rows):
            lines.append(np.zeros((4, lines[-1].shape[1], 4), np.uint8))
    with whole_file(path) as building:
        matplotlib.image.imsave(building, np.repeat(np.repeat(np.concatenate(lines), 2, 0), 2, 1), format="png")
    return path.name


def find_pictures(places: Iterable[Path], device: torch.device) -> Callable[[Tensor], np.ndarray] | None:
    """Finds what decodes latents [n, C, F, H, W] into uint8 [n, P, height, width, 3], P = F or 1 + r (F - 1); None,
    with warnings, where none of the places has it.

    Args:
        places: Folders of models or checkpoints.
        device: Where it decodes; it stays there only while it does.
    """
    for place in places:
        try:
            decoder, _ = find_decoder(place)
        except (FileNotFoundError, InputError) as error:
            logger.warning("no pictures: %s", error)
            continue
        return partial(_decoded, decoder, device)
    return None


def _decoded(decoder: PictureDecoder, device: torch.device, latents: Tensor) -> np.ndarray:
    try:
        return np.asarray(decoder.to(device).pictures(latents.to(device)).cpu())
    finally:
        decoder.to("cpu")
