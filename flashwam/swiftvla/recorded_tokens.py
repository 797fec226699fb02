# SPDX-License-Identifier: Apache-2.0
"""Tokens of a streaming provider for recorded episodes, made of their pictures and kept apart from the data.

`<folder>/<settings>/<episode>.safetensors`, both names hashes of all that decides the content, holds a tensor "k<K>"
[n, m, C] per cache size, of the rows that a latent frame is of. A killed call goes on where it was.
Letters: V views, H, W pixels, n rows, m tokens, C channels, K cache entries.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from flashwam.data.bad_files import BadFiles
from flashwam.data.origin import EpisodePictures
from flashwam.data.samples import Window
from flashwam.swiftvla.streaming import StreamingGeometry
from flashwam.system.errors import InputError
from flashwam.system.files import one_at_a_time
from flashwam.system.tensor_file import load_tensors, write_tensors

__all__ = ["RecordedTokens", "encode_recordings", "squared"]

logger = logging.getLogger(__name__)

_AT_ONCE = 32
"""Pictures of a camera that are held decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTokens:
    """Reads tokens, a row at a time and standardised.

    Attributes:
        tokens: m.
        channels: C.
        capacities: Values of K that there are.
        mean: Of each channel over all episodes, rows and K, [C].
        std: Likewise.
        places: Folder of the data set and episode number -> file, and row -> place in it.
    """

    tokens: int
    channels: int
    capacities: tuple[int, ...]
    mean: Tensor
    std: Tensor
    places: Mapping[tuple[Path, int], tuple[Path, Mapping[int, int]]]

    def of(self, window: Window, capacity: int) -> Tensor:
        """[m, C], float32, of about zero mean and unit variance per channel: at a window's first frame.

        Raises:
            ValueError: There are none.
        """
        path, rows = self.places.get((window.repo, window.episode), (None, {}))
        if path is None or window.row not in rows or capacity not in self.capacities:
            raise InputError(
                f"no tokens of row {window.row} of {window.repo.name}/episode_{window.episode:06d} for a cache of "
                f"{capacity}: they were made of other windows; begin the run again"
            )
        with safe_open(path, framework="pt") as file:
            row = file.get_slice(f"k{capacity}")[rows[window.row]].float()
        return (row - self.mean) / self.std


def squared(pictures: np.ndarray, side: int) -> np.ndarray:
    """Resizes uint8 pictures [T, H, W, 3] to squares, smoothed, as they are where they are such squares already."""
    if pictures.shape[1:3] == (side, side):
        return pictures
    values = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    values = functional.interpolate(values, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def encode_recordings(
    episodes: Sequence[EpisodePictures],
    provider: StreamingGeometry,
    folder: Path,
    *,
    capacities: Sequence[int],
    bad: BadFiles,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> RecordedTokens:
    """Streams every episode through a provider, once for all K; what was made of the same pictures is kept.

    Of several processes one makes them, the others wait.

    Args:
        episodes: Their pictures, the view whose tokens count last.
        provider: Makes the tokens; every picture of an episode enters its cache, view after view.
        folder: Of all such tokens.
        capacities: Values of K.
        bad: Receives the segments of episodes whose pictures cannot be read; its `skip` False raises.
        device: Where the network runs.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError, ValueError: A picture is missing or damaged.
    """
    capacities = tuple(sorted(set(capacities)))
    folder = folder / _hash(f"{provider.fingerprint} {capacities}")
    made: list[tuple[EpisodePictures, Path]] = []
    with one_at_a_time(folder):
        for episode in tqdm(episodes, desc="auxiliary tokens", unit="episode", disable=not progress):
            try:
                file = folder / f"{_hash(_told(episode))}.safetensors"
                if not _is_whole(file, capacities):
                    provider.model.to(device)
                    write_tensors(file, _encode(episode, provider, capacities))
            except (ValueError, FileNotFoundError) as error:
                for segment in episode.segments:
                    bad.add(segment, error)
                continue
            made.append((episode, file))
        if not made:
            raise InputError(f"no pictures of {len(episodes)} episodes can be read: {next(iter(bad.reasons.values()))}")
        files = sorted({file for _, file in made})
        statistics = folder / f"statistics_{_hash(' '.join(file.stem for file in files))}.safetensors"
        if not statistics.is_file():
            write_tensors(statistics, _measured(files))
        held = load_tensors(statistics)
    places = {
        (one.repo, one.episode): (file, {row: place for place, row in enumerate(_rows(one))}) for one, file in made
    }
    return RecordedTokens(
        tokens=provider.tokens,
        channels=provider.channels,
        capacities=capacities,
        mean=held["mean"],
        std=held["std"],
        places=places,
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _told(episode: EpisodePictures) -> str:
    rows = [[*key, *rows] for key, rows in episode.rows.items()]
    return f"{json.dumps(rows)} {episode.fingerprint()}"


def _rows(episode: EpisodePictures) -> list[int]:
    """Rows in the order in which a file holds them."""
    return [row for rows in episode.rows.values() for row in rows]


def _is_whole(path: Path, capacities: Sequence[int]) -> bool:
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()) == {f"k{capacity}" for capacity in capacities}
    except SafetensorError:
        logger.warning("%s is damaged and made anew", path)
        return False


def _encode(episode: EpisodePictures, provider: StreamingGeometry, capacities: Sequence[int]) -> dict[str, Tensor]:
    kept: dict[int, list[Tensor]] = {capacity: [] for capacity in capacities}
    for (stride, first), wanted in episode.rows.items():
        seen = range(first, wanted[-1] + 1, stride)
        chosen = set(wanted)
        steps = _pictures(episode, seen, provider.model.config.size)
        for row, tokens in zip(seen, provider.stream_each(steps, capacities), strict=True):
            for capacity in capacities if row in chosen else ():
                kept[capacity].append(tokens[capacity].half().cpu())
    return {f"k{capacity}": torch.stack(rows) for capacity, rows in kept.items()}


def _pictures(episode: EpisodePictures, rows: Sequence[int], side: int) -> Iterator[np.ndarray]:
    """uint8 [V, side, side, 3] of one row after another, each decoded once."""
    for begin in range(0, len(rows), _AT_ONCE):
        some = rows[begin : begin + _AT_ONCE]
        yield from np.stack([squared(clip.read(some, fps=episode.fps), side) for clip in episode.clips], 1)


def _measured(files: Sequence[Path]) -> dict[str, Tensor]:
    """Mean and standard deviation of each channel over all tokens."""
    total = squares = torch.zeros(())
    count = 0
    for file in files:
        for tokens in load_tensors(file).values():
            every = tokens.double().flatten(0, 1)
            total, squares, count = total + every.sum(0), squares + every.square().sum(0), count + len(every)
    mean = total / count
    return {"mean": mean.float(), "std": (squares / count - mean**2).clamp(min=1e-8).sqrt().float()}
