# SPDX-License-Identifier: Apache-2.0
"""Latent files in LingBot-VA's layout: one `.pth` per episode segment and camera, written once, read without pickle.

    {latent: bf16 [f*h*w, C] in the order f, h, w, already normalised, latent_num_frames, latent_height, latent_width,
     video_num_frames, video_height, video_width, text_emb: bf16 [L, D], text, frame_ids, start_frame, end_frame, fps,
     ori_fps}
Where every sample is a clip of its own, there also is first_latent, bf16 [h*w, C]: that of the first picture encoded
alone, and the text is in a file that clips share: text_file names it, in `text/` of the repo.
The temporal factor is not stored; it follows from the counts: as many latent frames as pictures means 1, a quarter
(after the first) means 4, as with the Wan autoencoder.
"""

import functools
import hashlib
import itertools
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.episodes import (
    CAMERA,
    CHUNK,
    episode_path,
    find_repos,
    read_episode_list,
    read_frames,
    read_info,
    read_table,
    video_path,
)
from flashwam.data.fingerprint import file_fingerprint
from flashwam.data.hashed_text import encode_text
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.lfs import refuse_pointer
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import write_torch

__all__ = [
    "ACTION_NORM",
    "EMPTY_TEXT",
    "LatentSegment",
    "encode_latents",
    "fingerprint",
    "latent_path",
    "read_empty_text",
    "read_frame_rows",
    "read_latents",
    "read_text",
    "write_latents",
]

logger = logging.getLogger(__name__)

EMPTY_TEXT = "empty_emb.pt"
_ABOVE = 3
"""Folders between one data set and what holds the empty prompt of many."""
ACTION_NORM = "action_norm.json"
_TEXTS = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSegment:
    """One latent file, checked. Letters: C channels, F latent frames, L text tokens, D text width.

    Attributes:
        latents: float32 [C, F, h, w].
        text: [L, D].
        prompt: The instruction.
        start: First row of the segment in the episode.
        first_row: Row of the first picture.
        end: Row after the segment's last, where the file says it.
        stride: Rows between pictures.
        factor: Pictures per latent frame.
        alone: float32 [C, h, w], the first picture encoded alone; None where the first of `latents` is just that.
        autoencoder: What `fingerprint` says of the autoencoder that made them; None where the file does not tell.
    """

    latents: Tensor
    text: Tensor
    prompt: str
    start: int
    first_row: int
    end: int | None
    stride: int
    factor: int
    alone: Tensor | None = None
    autoencoder: str | None = None

    @property
    def actions_per_frame(self) -> int:
        """N: rows between two latent frames."""
        return self.stride * self.factor


def latent_path(repo: Path, index: int, start: int, end: int, camera: str = CAMERA) -> Path:
    """Path of a segment's latents."""
    folder = Path(repo) / "latents" / f"chunk-{index // CHUNK:03d}" / camera
    return folder / f"episode_{index:06d}_{start}_{end}.pth"


def _load(path: Path, *, mapped: bool = False) -> Any:
    """Reads a file without running code; `mapped`, of its tensors nothing is read before they are used."""
    refuse_pointer(path)
    try:
        if mapped:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # torch itself does not look at the checksums, so a flipped bit would become a number.
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise InputError(f"its part {damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} is missing: encode the episodes first (flashwam convert RAW OUT), or fetch it with the data set"
        ) from None
    except MemoryError:
        raise
    except Exception as error:
        # A file of any content comes through here, so what the readers raise is not to be foreseen.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a latent file that can be read without running code ({reason})") from error


def read_text(path: Path) -> Tensor:
    """Reads a text embedding such as `empty_emb.pt`, float32 [L, D]."""
    value = _load(user_path(path))
    if not isinstance(value, Tensor) or value.ndim != 2:
        raise InputError(f"{path}: expected one tensor [L, D], got {type(value).__name__}")
    return value.float()


def read_empty_text(root: Path) -> Tensor:
    """Reads the empty prompt's embedding of encoded data sets, float32 [L, D].

    Args:
        root: The folder above them.

    Raises:
        FileNotFoundError: It is not there; where it is in a folder above, as of one data set's own folder, the message
            names that.
    """
    path = root / EMPTY_TEXT
    above = next((each for each in root.absolute().parents[:_ABOVE] if (each / EMPTY_TEXT).is_file()), None)
    if not path.is_file() and above is not None:
        raise MissingFileError(
            f"{root} is a part of {above}, where {EMPTY_TEXT} lies: name that folder, and choose "
            f"{root.absolute().name} among its data sets (--tasks of flashwam evaluate, data.tasks of a recipe)"
        )
    return read_text(path)


def _temporal(path: Path, frame_ids: list[int], frames: int) -> tuple[int, int]:
    """Stride between pictures, and pictures per latent frame."""
    count = len(frame_ids)
    if count == 0:
        raise InputError(f"{path}: frame_ids names no picture")
    strides = {b - a for a, b in itertools.pairwise(frame_ids)}
    if len(strides) > 1 or min(strides, default=1) < 1:
        raise InputError(f"{path}: frame_ids must rise evenly, got strides {sorted(strides)}")
    stride = strides.pop() if strides else 1
    for factor in (1, 4):
        if (count - 1) // factor + 1 == frames:
            return stride, factor
    raise InputError(f"{path}: {frames} latent frames fit neither {count} pictures nor a quarter of them")


def read_latents(path: Path | str) -> LatentSegment:
    """Reads and checks a latent file; no code in it is ever run.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is damaged, not a latent file, or inconsistent; the message says which.
    """
    path = user_path(path)
    raw = _load(path)
    needed = ("latent", "latent_num_frames", "latent_height", "latent_width", "text_emb", "frame_ids", "start_frame")
    if isinstance(raw, dict) and "text_file" in raw:
        raw["text_emb"] = _shared_text(path, raw["text_file"])
    if not isinstance(raw, dict) or any(key not in raw for key in needed):
        have = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
        raise InputError(f"{path}: expected a mapping with {', '.join(needed)}; got {have}")
    latent, text = raw["latent"], raw["text_emb"]
    try:
        frames, height, width = (int(raw[f"latent_{k}"]) for k in ("num_frames", "height", "width"))
        frame_ids = [int(i) for i in raw["frame_ids"]]
        start = int(raw["start_frame"])
        end = None if raw.get("end_frame") is None else int(raw["end_frame"])
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path}: its counts and row numbers must be whole numbers ({error})") from error
    for name, value in (("latent", latent), ("text_emb", text)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != 2:
            raise InputError(f"{path}: expected {name} to be a tensor [rows, channels], got {_kind(value)}")
    if min(frames, height, width) < 1 or latent.shape[0] != frames * height * width:
        raise InputError(
            f"{path}: expected latent [{frames}*{height}*{width}, C] as its own counts say, got {tuple(latent.shape)}"
        )
    alone = raw.get("first_latent")
    if alone is not None:
        if not isinstance(alone, Tensor) or tuple(alone.shape) != (height * width, latent.shape[1]):
            raise InputError(f"{path}: expected first_latent [{height}*{width}, {latent.shape[1]}], got {_kind(alone)}")
        latent = torch.cat([latent, alone.to(latent.dtype)])
    if not torch.isfinite(latent).all() or not torch.isfinite(text).all():
        raise InputError(f"{path}: the latents or the text are not all finite; encode this episode again")
    stride, factor = _temporal(path, frame_ids, frames)
    if frame_ids[0] < start or (end is not None and frame_ids[-1] >= end):
        raise InputError(f"{path}: pictures {frame_ids[0]} to {frame_ids[-1]} lie outside rows {start} to {end}")
    grid = latent.float().view(-1, height, width, latent.shape[1]).permute(3, 0, 1, 2)
    return LatentSegment(
        latents=grid[:, :frames].contiguous(),
        text=text.float(),
        prompt=str(raw.get("text", "")),
        start=start,
        end=end,
        first_row=frame_ids[0],
        stride=stride,
        factor=factor,
        alone=None if alone is None else grid[:, frames].contiguous(),
        autoencoder=None if raw.get("autoencoder") is None else str(raw["autoencoder"]),
    )


def read_frame_rows(path: Path | str) -> tuple[range, int]:
    """The row of every latent frame of a file, and the rows between pictures; the latents themselves are not read.

    Raises:
        FileNotFoundError, ValueError: As `read_latents`, but for what is wrong with the latents.
    """
    path = user_path(path)
    raw = _load(path, mapped=True)
    try:
        frames, frame_ids = int(raw["latent_num_frames"]), [int(i) for i in raw["frame_ids"]]
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(
            f"{path}: expected a mapping with whole latent_num_frames and frame_ids ({error!r})"
        ) from error
    stride, factor = _temporal(path, frame_ids, frames)
    return range(frame_ids[0], frame_ids[0] + frames * stride * factor, stride * factor), stride


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def fingerprint(autoencoder: FrameAutoencoder) -> str:
    """Sixteen characters that tell these weights from others."""
    digest = hashlib.sha256()
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _is_current(path: Path, made_by: str, pictures: str | None) -> bool:
    """A file that does not say of which pictures it is, or whose pictures are gone, is taken as it is."""
    if not path.exists():
        return False
    raw = _load(path)
    if not isinstance(raw, dict) or raw.get("autoencoder") != made_by:
        return False
    return pictures is None or raw.get("pictures", pictures) == pictures


def save_text(repo: Path, prompt: str, embedding: Tensor) -> str:
    """Writes a prompt's embedding [L, D] where a repo's clips share it; returns the name of the file."""
    name = f"{hashlib.sha256(prompt.encode()).hexdigest()[:32]}.pt"
    if not (repo / _TEXTS / name).is_file():
        write_torch(repo / _TEXTS / name, embedding)
    return name


def _shared_text(path: Path, name: Any) -> Tensor:
    """Reads the text that `save_text` wrote beside the latent file at `path`."""
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError(f"{path}: expected text_file to be a file's name, got {name!r}")
    return _read_once(path.absolute().parents[3] / _TEXTS / name)


@functools.lru_cache(maxsize=64)
def _read_once(path: Path) -> Tensor:
    return read_text(path)


def write_latents(
    path: Path,
    latents: Tensor,
    *,
    text: Tensor,
    prompt: str,
    rows: range,
    end: int,
    fps: float,
    size: Sequence[int],
    made_by: str,
    pictures: str | None = None,
) -> None:
    """Writes the latents of a segment whose pictures are encoded one by one, in the numbers' own precision.

    Args:
        path: See `latent_path`.
        latents: [F, C, h, w].
        text: [L, D].
        prompt: The instruction.
        rows: Row of every picture, as many as there are latent frames.
        end: Row after the segment's last.
        fps: Rows per second.
        size: Height and width of the pictures.
        made_by: What `fingerprint` says of the autoencoder.
        pictures: Fingerprint of the video; None leaves it out.
    """
    count, channels, height, width = latents.shape
    value = {
        "latent": latents.permute(0, 2, 3, 1).reshape(-1, channels),
        "latent_num_frames": count,
        "latent_height": height,
        "latent_width": width,
        "video_num_frames": len(rows),
        "video_height": size[0],
        "video_width": size[1],
        "text_emb": text,
        "text": prompt,
        "frame_ids": list(rows),
        "start_frame": rows.start,
        "end_frame": end,
        "fps": fps / rows.step,
        "ori_fps": fps,
        "autoencoder": made_by,
        **({} if pictures is None else {"pictures": pictures}),
    }
    write_torch(path, value)


def encode_latents(root: Path | str, autoencoder: FrameAutoencoder, *, progress: bool = True) -> int:
    """Encodes every episode below `root` and writes `empty_emb.pt` and the action quantiles beside the repos.

    Files that this very autoencoder has made already, of the same pictures, are kept, so a killed run can be run again.

    Args:
        root: Folder of the repos.
        autoencoder: The trained autoencoder.
        progress: Show a progress bar.

    Returns:
        The number of files written.
    """
    from tqdm import tqdm

    root = user_path(root)
    made_by = fingerprint(autoencoder)
    jobs = []
    for repo in find_repos(root):
        info = read_info(repo)
        jobs += [(repo, info, episode) for episode in read_episode_list(repo)]
    labels, written = [], 0
    for repo, info, episode in tqdm(jobs, desc="latents", unit="episode", disable=not progress):
        index, every, fps = episode["episode_index"], int(info.get("render_every", 1)), info["fps"]
        video = video_path(repo, index)
        pictures = file_fingerprint(video) if video.is_file() else None
        labels.append(read_table(episode_path(repo, index), ["action"])["action"])
        for segment in episode["action_config"]:
            start, end = int(segment["start_frame"]), int(segment["end_frame"])
            path = latent_path(repo, index, start, end)
            if _is_current(path, made_by, pictures):
                continue
            frame_ids = list(range(start, end, every))
            frames = read_frames(video, frame_ids)
            prompt = segment["action_text"]
            write_latents(
                path,
                autoencoder.encode(frames).to(torch.bfloat16),
                text=encode_text(prompt).to(torch.bfloat16),
                prompt=prompt,
                rows=range(start, end, every),
                end=end,
                fps=fps,
                size=frames.shape[1:3],
                made_by=made_by,
                pictures=pictures,
            )
            written += 1
    norm = ActionNorm.fit(np.concatenate(labels))
    write_whole(root / ACTION_NORM, json.dumps(norm.to_dict(), indent=2).encode())
    write_torch(root / EMPTY_TEXT, encode_text("").to(torch.bfloat16))
    logger.info("wrote %d latent files below %s", written, root)
    return written
