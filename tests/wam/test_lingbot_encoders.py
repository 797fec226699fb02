# SPDX-License-Identifier: Apache-2.0
"""A robot's raw episodes are converted to what the closed loop sees of the same pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from test_lingbot_text import checkpoint
from torch.testing import assert_close

from flashwam.data.actions import ActionNorm
from flashwam.data.cameras import CameraLayout
from flashwam.data.controls import ControlSpace
from flashwam.data.conversion import ConversionPlan
from flashwam.data.convert import convert
from flashwam.data.lerobot import SegmentDataset
from flashwam.pipeline.sources import find_encoders
from flashwam.wam.lingbot_va.codec import LingBotCodec
from flashwam.wam.lingbot_va.prompts import PromptEncoder
from flashwam.wam.lingbot_va.vae import WanVae

av = pytest.importorskip("av")

_ = checkpoint
KEYS = ("observation.images.cam_high", "observation.images.cam_left_wrist", "observation.images.cam_right_wrist")
ROWS, STRIDE = 24, 2


def write_raw(repo: Path) -> None:
    """One episode of three cameras in version 2.1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    features = {key: {"dtype": "video"} for key in KEYS}
    (repo / "meta").mkdir(parents=True)
    info = {"codebase_version": "v2.1", "fps": 10, "features": features}
    (repo / "meta" / "info.json").write_text(json.dumps(info))
    record = {"episode_index": 0, "tasks": ["open the drawer"], "length": ROWS}
    (repo / "meta" / "episodes.jsonl").write_text(json.dumps(record) + "\n")
    path = repo / "data" / "chunk-000" / "episode_000000.parquet"
    path.parent.mkdir(parents=True)
    rows = rng.normal(size=(ROWS, 16)).tolist()
    pq.write_table(pa.table({"action": rows, "episode_index": np.zeros(ROWS, np.int64)}), path)
    for key in KEYS:
        path = repo / "videos" / "chunk-000" / key / "episode_000000.mp4"
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
            for picture in rng.integers(0, 255, (ROWS, 6, 10, 3), np.uint8).repeat(8, 1).repeat(8, 2):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def decoded(repo: Path, key: str) -> list[np.ndarray]:
    with av.open(str(repo / "videos" / "chunk-000" / key / "episode_000000.mp4")) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_converted_latents_are_those_of_the_closed_loop(
    golden: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    config = {k.removeprefix("vae/config/"): v for k, v in golden.items() if k.startswith("vae/config/")}
    model = AutoencoderKLWan(**config)
    weights = {k.removeprefix("vae/state_dict/"): v for k, v in golden.items() if k.startswith("vae/state_dict/")}
    model.load_state_dict(weights, strict=True)
    model.save_pretrained(checkpoint / "vae")
    write_raw(tmp_path / "raw" / "drawer")

    plan = ConversionPlan(cameras=KEYS, layout="tshape", size=(64, 96), stride=STRIDE)
    assert convert(tmp_path / "raw", tmp_path / "out", plan, find_encoders(checkpoint), progress=False).written == 3
    norm = ActionNorm(q01=(-3.0,) * 30, q99=(3.0,) * 30, used=tuple(range(16)))
    data = SegmentDataset(
        tmp_path / "out", cameras=KEYS, layout="tshape", space=ControlSpace(norm=norm, relative=True), window_frames=3
    )
    sample = data.segment(0)

    prompts = PromptEncoder(tmp_path / "cache", checkpoint=checkpoint).encode
    codec = LingBotCodec(
        vae=WanVae.from_pretrained(checkpoint / "vae", dtype=torch.bfloat16),
        cameras=CameraLayout(cameras=KEYS, image_size=(64, 96), arrangement="tshape"),
        actions=norm,
        prompts=prompts,
    )
    pictures = {key: decoded(tmp_path / "raw" / "drawer", key) for key in KEYS}
    seen = [{key: pictures[key][row] for key in KEYS} for row in range(0, ROWS, STRIDE)]
    session = codec.open()
    loop = torch.cat([session.encode(seen[:1]), session.encode(seen[1:5]), session.encode(seen[5:9])], 2)[0]
    assert sample.video.shape == loop.shape == (48, 3, 6, 6)
    # Files hold bfloat16.
    assert_close(sample.video, loop, atol=1e-2, rtol=1e-2)
    assert torch.equal(sample.text, prompts("open the drawer").float())
    assert torch.equal(data.null_text, prompts("").float())
    # Whatever dtype a model is served in, its prompts are those that the conversion kept.
    served = LingBotCodec.from_pretrained(checkpoint, "robotwin", dtype=torch.float32)
    assert torch.equal(served.text("open the drawer").float(), sample.text)
