# SPDX-License-Identifier: Apache-2.0
"""Converting one episode: pictures by stride, latents per segment and camera, rows last.

Letters: T pictures, C latent channels, F latent frames, h and w latent rows and columns.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashwam.data.encoders import Encoders, Resize, check_resize, to_pixels
from flashwam.data.episodes import CHUNK
from flashwam.data.latents import save_text
from flashwam.data.layouts import camera_sizes
from flashwam.data.raw import RawEpisode, read_rows
from flashwam.data.recordings import Recording, note_path
from flashwam.data.segments import Segment
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import built_from, read_mapping
from flashwam.system.tensor_file import write_torch

__all__ = ["ConversionPlan", "EpisodeConverter", "EpisodeJob", "EpisodeResult", "result_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """The settings that decide the content of the files.

    Attributes:
        cameras: Keys, in the layout's order.
        layout: See `flashwam.data.layouts.arrange`.
        size: Rows and columns in pixels of the first camera's pictures.
        stride: Rows between pictures.
        resize: See `flashwam.data.encoders.to_pixels`.
        window: Latent frames of a clip, where every sample is one, see `Encoders.clips`.
        hop: Rows from one clip's beginning to the next one's; as many as a latent frame spans if None.
        action_key: Column of the actions; in the result it is `action`.
    """

    cameras: tuple[str, ...]
    layout: str
    size: tuple[int, int]
    stride: int
    resize: Resize = "stretch"
    window: int | None = None
    hop: int | None = None
    action_key: str = "action"

    def __post_init__(self) -> None:
        for name in ("stride", "hop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        check_resize(self.resize)
        camera_sizes(self.layout, self.size, count=len(self.cameras))

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Camera -> rows and columns."""
        return dict(zip(self.cameras, camera_sizes(self.layout, self.size, count=len(self.cameras)), strict=True))

    def pictures(self, start: int, end: int, unit: int) -> list[int]:
        """Rows whose pictures are encoded: every `stride`-th, 1 modulo `unit` of them."""
        rows = range(start, end, self.stride)
        return list(rows[: (len(rows) - 1) // unit * unit + 1])

    def shown(self, episode: RawEpisode, unit: int) -> list[int]:
        """Rows whose pictures tell an episode from another: some of those that are encoded."""
        first, last = (self.pictures(*episode.segments[place][:2], unit) for place in (0, -1))
        return sorted({first[0], first[len(first) // 2], last[-1]})

    def check_length(self, start: int, end: int, unit: int) -> None:
        """Raises a ValueError where a sample's rows are too few for two latent frames."""
        count = len(self.pictures(start, end, unit))
        if count <= unit:
            raise InputError(f"hold {count} pictures; a sample needs {unit + 1}")

    def samples(self, start: int, end: int, encoders: Encoders) -> list[tuple[int, int]]:
        """First row and row after the last of every sample of a segment: itself, or the clips it is cut into.

        Towards the segment's end clips are shorter than `window`; one too short for any is left whole, to be refused.

        Raises:
            ValueError: `window` is not set, or no clip of these encoders has so many frames.
        """
        if not encoders.clips:
            return [(start, end)]
        per_frame, unit = encoders.pictures_per_frame, encoders.unit
        if self.window is None or self.window < 2 or (self.window - 1) * per_frame % unit:
            raise InputError(
                f"this autoencoder encodes a picture and multiples of {unit}, so a clip has 1 and a multiple of "
                f"{unit // per_frame} latent frames; got window_frames {self.window}"
            )
        span = (self.window - 1) * per_frame * self.stride + 1
        begins = range(start, end - unit * self.stride, self.hop or per_frame * self.stride)
        return [(begin, min(begin + span, end)) for begin in begins] or [(start, end)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeJob:
    """One episode, and the repo that receives it; `pictures` are the columns of its table that hold such."""

    episode: RawEpisode
    target: Path
    pictures: tuple[str, ...] = ()
    name: str = ""

    def segment(self, start: int, end: int) -> Segment:
        """Gives the paths of the files of these rows."""
        index = self.episode.index
        return Segment(repo=self.target, episode=index, start=start, end=end, chunk=index // CHUNK, name=self.name)

    @property
    def table(self) -> Path:
        """Path of the rows; written last."""
        return self.segment(0, self.episode.length).table

    def is_done(self, plan: ConversionPlan) -> bool:
        """Tells whether every file is there."""
        parts = [self.segment(start, end) for start, end, _ in self.episode.segments]
        return self.table.is_file() and all(part.latents(key).is_file() for part in parts for key in plan.cameras)

    @property
    def note(self) -> Path:
        """Path of the note of the recording; written first."""
        return note_path(self.target, self.episode.index)

    @property
    def recording(self) -> Recording:
        """The recording as it is now."""
        return Recording(episode=self.episode, without=self.pictures)

    def is_begun(self, plan: ConversionPlan) -> bool:
        """Tells whether rows or latents of such an episode are there."""
        folders = [self.segment(0, 1).latents(key).parent for key in plan.cameras]
        name = f"episode_{self.episode.index:06d}_*.pth"
        return self.table.is_file() or any(next(folder.glob(name), None) for folder in folders)

    def differences(self, plan: ConversionPlan) -> list[str]:
        """Lists what is there of another recording than the present one; empty where nothing proves to be."""
        if not self.is_begun(plan):
            return []
        if self.note.is_file():
            return built_from(self.note, lambda: self.recording.differences(read_mapping(self.note)))
        return self.recording.differences_of_table(self.table, plan.action_key) if self.table.is_file() else []


@dataclass(slots=True, kw_only=True)
class EpisodeResult:
    """The outcome of an episode's conversion.

    Attributes:
        job: The episode.
        written: Latent files made now.
        kept: Latent files that were there.
        segments: Those that are complete.
        bad: What could not be made -> why; the reason names the file.
    """

    job: EpisodeJob
    written: int = 0
    kept: int = 0
    segments: list[tuple[int, int, str]] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)


class EpisodeConverter:
    """Converts episodes with one set of encoders.

    Args:
        plan: What to encode.
        encoders: What encodes it.
    """

    def __init__(self, plan: ConversionPlan, encoders: Encoders) -> None:
        self.plan, self.encoders = plan, encoders
        self._text: tuple[str, Tensor] | None = None

    def convert(self, job: EpisodeJob) -> EpisodeResult:
        """Makes what is missing of an episode; what cannot be read is told in the result."""
        done, episode = EpisodeResult(job=job), job.episode
        self._note(job)
        for start, end, text in episode.segments:
            part = job.segment(start, end)
            try:
                for camera in self.plan.cameras:
                    path = part.latents(camera)
                    if path.is_file():
                        done.kept += 1
                        continue
                    write_torch(path, self._encode(episode, camera, start, end, text, target=job.target))
                    done.written += 1
            except (ValueError, FileNotFoundError) as error:
                done.bad[str(part)] = str(error)
                continue
            done.segments.append((start, end, text))
        if done.segments and not job.table.is_file():
            try:
                write_whole(job.table, _table_bytes(episode, self.plan.action_key, job.pictures))
            except (ValueError, FileNotFoundError) as error:
                done.bad[str(job.segment(0, episode.length))] = str(error)
                done.segments.clear()
        return done

    def _note(self, job: EpisodeJob) -> None:
        """Notes the recording of an episode that is begun now; of one that was begun before, segments that are new."""
        if not job.is_begun(self.plan):
            shown = self.plan.shown(job.episode, self.encoders.unit)
            noted = job.recording.note(shown)
        elif job.note.is_file():
            noted = job.recording.with_new_segments(read_mapping(job.note))
        else:
            return
        text = (json.dumps(noted) + "\n").encode()
        if not job.note.is_file() or job.note.read_bytes() != text:
            write_whole(job.note, text)

    def _encode(
        self, episode: RawEpisode, camera: str, start: int, end: int, text: str, *, target: Path
    ) -> dict[str, Any]:
        plan, clip = self.plan, episode.clips[camera]
        frame_ids = plan.pictures(start, end, self.encoders.unit)
        pictures = clip.read(frame_ids, fps=episode.fps)
        pixels = to_pixels(pictures, plan.sizes[camera], resize=plan.resize)
        latents = self.encoders.video(pixels).float().cpu()
        if not torch.isfinite(latents).all():
            raise InputError(f"{clip.path}: the latents of rows {start} to {end} are not all finite")
        channels, count, height, width = latents.shape
        alone = {}
        if self.encoders.clips:
            alone["first_latent"] = self.encoders.video(pixels[:, :1])[:, 0].permute(1, 2, 0).reshape(-1, channels)
            alone["first_latent"] = alone["first_latent"].to("cpu", torch.bfloat16)
        return {
            **alone,
            "latent": latents.permute(1, 2, 3, 0).reshape(-1, channels).to(torch.bfloat16),
            "latent_num_frames": count,
            "latent_height": height,
            "latent_width": width,
            "video_num_frames": len(frame_ids),
            "video_height": plan.sizes[camera][0],
            "video_width": plan.sizes[camera][1],
            **self._embedding(target, text),
            "text": text,
            "frame_ids": frame_ids,
            "start_frame": start,
            "end_frame": end,
            "fps": episode.fps / plan.stride,
            "ori_fps": episode.fps,
        }

    def _embedding(self, target: Path, text: str) -> dict[str, Any]:
        """Kept for the next camera and segment, which often have the same; clips, of which there are many, share a
        file of it."""
        if self._text is None or self._text[0] != text:
            self._text = text, self.encoders.text(text).to(torch.bfloat16).cpu()
        if not self.encoders.clips:
            return {"text_emb": self._text[1]}
        return {"text_file": save_text(target, text, self._text[1])}


def result_names(action_key: str) -> dict[str, str]:
    """Column of the raw data -> its name in the result, where that is another: a column that is called `action` and
    is not meant keeps its content under another name."""
    return {} if action_key == "action" else {"action": "other_action", action_key: "action"}


def _table_bytes(episode: RawEpisode, action_key: str, pictures: Collection[str]) -> bytes:
    """The rows without the columns `pictures`, and with the actions where every reader looks for them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, names = read_rows(episode, without=pictures), result_names(action_key)
    table = table.rename_columns([names.get(name, name) for name in table.column_names])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()
