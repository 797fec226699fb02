# SPDX-License-Identifier: Apache-2.0
"""Tiny raw LeRobot data sets of both versions, whose pictures count themselves, and encoders for them."""

import json
import os
import signal
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKLWan

from flashwam.data.encoders import Encoders
from flashwam.data.hashed_text import encode_text

CAMERAS = ("observation.images.top", "observation.images.wrist")
LENGTHS = (26, 30, 21)
FPS = 10
# Episode 1 has two instructions.
CONFIG = {
    1: [
        {"start_frame": 0, "end_frame": 13, "action_text": "open"},
        {"start_frame": 13, "end_frame": 30, "action_text": "shut"},
    ]
}


def shade(episode: int, row: int, camera: int) -> int:
    """Grey level of a picture: tells neighbours apart even after compression."""
    return 20 + (row * 7 + episode * 40 + camera * 90) % 216


def actions(episode: int) -> np.ndarray:
    """[T, 7]."""
    return np.random.default_rng(episode).normal(size=(LENGTHS[episode], 7)).astype(np.float32)


def state(episode: int) -> np.ndarray:
    """[T, 8]: twice the row, its square over 100, the episode, and what tells nothing."""
    rows = np.arange(LENGTHS[episode])
    known = [2 * rows, rows**2 / 100, np.full(len(rows), episode)]
    return np.stack([*known, *[np.zeros(len(rows))] * 5], 1).astype(np.float32)


def write_video(path: Path, shades: list[int], size: tuple[int, int]) -> None:
    """An mp4 with a key frame every 8 pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "10", "g": "8"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for value in shades:
            picture = np.full((*size, 3), value, np.uint8)
            picture[: size[0] // 2, : size[1] // 2] //= 2
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def table(episode: int, offset: int, *, states: bool = False) -> pa.Table:
    """The rows of one episode."""
    length = LENGTHS[episode]
    rows = np.arange(length)
    told = {"observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state(episode).reshape(-1)), 8)}
    return pa.table(
        {
            **(told if states else {}),
            "action": pa.FixedSizeListArray.from_arrays(pa.array(actions(episode).reshape(-1)), 7),
            "timestamp": (rows / FPS).astype(np.float32),
            "frame_index": rows,
            "episode_index": np.full(length, episode),
            "index": offset + rows,
            "task_index": np.zeros(length, np.int64),
        }
    )


def info(version: str) -> dict:
    """`meta/info.json` without paths."""
    video = {camera: {"dtype": "video", "shape": [48, 64, 3]} for camera in CAMERAS}
    return {
        "codebase_version": version,
        "robot_type": "made up",
        "fps": FPS,
        "chunks_size": 1000,
        "features": video | {"action": {"dtype": "float32", "shape": [7]}},
    }


def write_v2(repo: Path) -> None:
    """A file per episode."""
    (repo / "meta").mkdir(parents=True)
    content = info("v2.1") | {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (repo / "meta" / "info.json").write_text(json.dumps(content))
    lines = []
    for episode, length in enumerate(LENGTHS):
        record = {"episode_index": episode, "tasks": ["fold"], "length": length}
        lines.append(record | ({"action_config": CONFIG[episode]} if episode in CONFIG else {}))
        path = repo / "data" / "chunk-000" / f"episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(episode, sum(LENGTHS[:episode])), path)
        for number, camera in enumerate(CAMERAS):
            video = repo / "videos" / "chunk-000" / camera / f"episode_{episode:06d}.mp4"
            write_video(video, [shade(episode, row, number) for row in range(length)], (48, 64))
    (repo / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_v3(repo: Path, *, states: bool = False) -> None:
    """Episodes 0 and 1 share a table; the first camera's video holds all three, the second's 1 and 2 share one."""
    (repo / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    content = info("v3.0") | {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (repo / "meta" / "info.json").write_text(json.dumps(content))
    (repo / "data" / "chunk-000").mkdir(parents=True)
    files = {"data": [[0, 1], [2]], CAMERAS[0]: [[0, 1, 2]], CAMERAS[1]: [[0], [1, 2]]}
    for number, group in enumerate(files["data"]):
        parts = [table(episode, sum(LENGTHS[:episode]), states=states) for episode in group]
        pq.write_table(pa.concat_tables(parts), repo / "data" / "chunk-000" / f"file-{number:03d}.parquet")
    records = []
    for episode, length in enumerate(LENGTHS):
        record = {
            "episode_index": episode,
            "tasks": ["fold"],
            "length": length,
            "action_config": CONFIG.get(episode),
            "data/chunk_index": 0,
            "data/file_index": next(n for n, group in enumerate(files["data"]) if episode in group),
            "dataset_from_index": sum(LENGTHS[:episode]),
            "dataset_to_index": sum(LENGTHS[: episode + 1]),
            "stats/action/mean": [0.0] * 7,
        }
        for camera in CAMERAS:
            number, group = next((n, g) for n, g in enumerate(files[camera]) if episode in g)
            begin = sum(LENGTHS[e] for e in group if e < episode) / FPS
            record |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": number}
            record |= {f"videos/{camera}/from_timestamp": begin, f"videos/{camera}/to_timestamp": begin + length / FPS}
        records.append(record)
    # Per-episode records lie in several files too.
    for number, part in enumerate((records[:2], records[2:])):
        path = repo / "meta" / "episodes" / "chunk-000" / f"file-{number:03d}.parquet"
        pq.write_table(pa.Table.from_pylist(part, schema=pa.Table.from_pylist(records[1:2]).schema), path)
    for place, camera in enumerate(CAMERAS):
        for number, group in enumerate(files[camera]):
            shades = [shade(episode, row, place) for episode in group for row in range(LENGTHS[episode])]
            write_video(repo / "videos" / camera / "chunk-000" / f"file-{number:03d}.mp4", shades, (48, 64))


def write_by_lerobot(repo: Path) -> None:
    """The same episodes as LeRobot's own recorder writes them, in its newest version, with states."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    video = {"dtype": "video", "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
    numbers = {"action": 7, "observation.state": 8}
    features = dict.fromkeys(CAMERAS, video) | {
        name: {"dtype": "float32", "shape": (count,), "names": [f"{name}_{k}" for k in range(count)]}
        for name, count in numbers.items()
    }
    own = LeRobotDataset.create(repo.name, FPS, features, root=repo, robot_type="made up", use_videos=True)
    for episode, length in enumerate(LENGTHS):
        acted, felt = actions(episode), state(episode)
        for row in range(length):
            pictures = {
                camera: np.full((48, 64, 3), shade(episode, row, number), np.uint8)
                for number, camera in enumerate(CAMERAS)
            }
            own.add_frame({**pictures, "action": acted[row], "observation.state": felt[row], "task": "fold"})
        own.save_episode()
    own.finalize()


def wan(kill_after: int | None = None) -> Encoders:
    """A tiny autoencoder of the released kind with random weights.

    Args:
        kill_after: Kill this process at once, without a chance to clean up, when asked for one clip more than this.
    """
    torch.manual_seed(0)
    model = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=48,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    ).eval()
    mean, std = (torch.tensor(getattr(model.config, f"latents_{k}")) for k in ("mean", "std"))
    # The library's default statistics are those of another autoencoder, with 16 channels.
    mean, std = mean.repeat(3)[:, None, None, None], std.repeat(3)[:, None, None, None]
    calls = 0

    @torch.no_grad()
    def video(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if kill_after is not None and calls > kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return (model.encode(pixels[None]).latent_dist.mode()[0] - mean) / std

    return Encoders(video=video, text=encode_text, pictures_per_frame=4, name="tiny wan 0")
