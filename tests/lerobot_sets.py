# SPDX-License-Identifier: Apache-2.0
"""Tiny data sets in the layout of the released ones, written with pyarrow and torch.save alone."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

CHANNELS, TEXT = 4, (5, 6)
ROBOTWIN = ("observation.images.cam_high", "observation.images.cam_left_wrist", "observation.images.cam_right_wrist")
LIBERO = ("observation.images.agentview_rgb", "observation.images.eye_in_hand_rgb")
SIZES = {"robotwin": [(4, 6), (2, 3), (2, 3)], "libero": [(2, 3), (2, 4)]}


def poses(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Absolute poses of two arms, float32 [rows, 16]; quaternions of unit length and of either sign."""
    out = rng.normal(size=(rows, 16))
    for first in (3, 11):
        out[:, first : first + 4] /= np.linalg.norm(out[:, first : first + 4], axis=1, keepdims=True)
    out[:, [7, 15]] = rng.random((rows, 2))
    return out.astype(np.float32)


def latent_file(rng, size, *, frames, first, stride, start, end, text) -> dict:
    """The content of one `.pth`."""
    height, width = size
    pictures = 4 * (frames - 1) + 1
    return {
        "latent": torch.tensor(rng.normal(size=(frames * height * width, CHANNELS)), dtype=torch.bfloat16),
        "latent_num_frames": frames,
        "latent_height": height,
        "latent_width": width,
        "video_num_frames": pictures,
        "video_height": 16 * height,
        "video_width": 16 * width,
        "text_emb": torch.tensor(rng.normal(size=TEXT), dtype=torch.bfloat16),
        "text": text,
        "frame_ids": [first + stride * i for i in range(pictures)],
        "start_frame": start,
        "end_frame": end,
        "fps": 10,
        "ori_fps": 10 * stride,
    }


def write_set(root: Path, kind: str, plan: dict[str, list[tuple]], *, seed: int = 0) -> None:
    """Writes repos below `root`.

    Args:
        root: Folder.
        kind: "robotwin" or "libero".
        plan: Repo path -> per episode (rows, [(start, end, first picture, latent frames)]).
        seed: Of every number.
    """
    rng = np.random.default_rng(seed)
    cameras, stride, width = (ROBOTWIN, 4, 16) if kind == "robotwin" else (LIBERO, 1, 7)
    for name, episodes in plan.items():
        repo = root / name
        (repo / "meta").mkdir(parents=True)
        info = {"codebase_version": "v2.1", "fps": 10 * stride, "chunks_size": 1000}
        (repo / "meta" / "info.json").write_text(json.dumps(info))
        lines = []
        for index, (rows, segments) in enumerate(episodes):
            actions = poses(rng, rows) if kind == "robotwin" else rng.normal(size=(rows, width)).astype(np.float32)
            path = repo / "data" / "chunk-000" / f"episode_{index:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            column = pa.array(actions.tolist(), type=pa.list_(pa.float32()))
            pq.write_table(pa.table({"action": column, "timestamp": np.arange(rows) / 10}), path)
            config = []
            for start, end, first, frames in segments:
                config.append({"start_frame": start, "end_frame": end, "action_text": f"part {start}", "skill": "x"})
                for camera, size in zip(cameras, SIZES[kind], strict=True):
                    folder = repo / "latents" / "chunk-000" / camera
                    folder.mkdir(parents=True, exist_ok=True)
                    value = latent_file(
                        rng, size, frames=frames, first=first, stride=stride, start=start, end=end, text=f"part {start}"
                    )
                    torch.save(value, folder / f"episode_{index:06d}_{start}_{end}.pth")
            lines.append({"episode_index": index, "length": rows, "tasks": ["t"], "action_config": config})
        (repo / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    torch.save(torch.full(TEXT, 0.25, dtype=torch.bfloat16), root / "empty_emb.pt")
