# SPDX-License-Identifier: Apache-2.0
"""Conversions of recordings whose segments overlap, that were damaged since, or whose rate was corrected."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("av")

from PIL import Image

from flashwam.data.conversion import ConversionPlan
from flashwam.data.convert import convert
from flashwam.data.encoders import Encoders
from flashwam.data.episodes import _write_video
from flashwam.data.hashed_text import encode_text
from flashwam.data.latents import read_latents
from flashwam.data.segments import find_segments

CAMERA = "cam"


def picture(grey):
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": None}


def write(repo, rows, *, segments=(), fps=10, video=False):
    """A data set of one episode whose pictures get lighter row by row."""
    (repo / "meta").mkdir(parents=True)
    (repo / "data/chunk-000").mkdir(parents=True)
    columns = {
        "action": pa.array(np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32).tolist()),
        "episode_index": pa.array([0] * rows),
        "task_index": pa.array([0] * rows),
    }
    if video:
        pictures = np.zeros((rows, 16, 16, 3), np.uint8) + (10 * np.arange(rows, dtype=np.uint8))[:, None, None, None]
        _write_video(repo / "videos/chunk-000" / CAMERA / "episode_000000.mp4", pictures, 10, None)
    else:
        columns[CAMERA] = pa.array([picture(10 * row) for row in range(rows)])
    pq.write_table(pa.table(columns), repo / "data/chunk-000/episode_000000.parquet")
    features = {
        "action": {"dtype": "float32", "shape": [2]},
        CAMERA: {"dtype": "video" if video else "image", "shape": [8, 8, 3]},
    }
    say_rate(repo, fps, {"codebase_version": "v2.1", "features": features})
    episode = {"episode_index": 0, "length": rows, "tasks": ["x"]}
    if segments:
        names = ("start_frame", "end_frame", "action_text")
        episode["action_config"] = [dict(zip(names, segment, strict=True)) for segment in segments]
    (repo / "meta/episodes.jsonl").write_text(json.dumps(episode) + "\n")
    (repo / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "x"}\n')


def say_rate(repo, fps, content=None):
    path = repo / "meta/info.json"
    path.write_text(json.dumps({**(content or json.loads(path.read_text())), "fps": fps}))


def run(raw, out, *, clips=False, stride=1, skip_bad=False):
    def encoders():
        return Encoders(
            video=lambda x: x[:, :, ::4, ::4], text=encode_text, pictures_per_frame=1, name="e", clips=clips
        )

    plan = ConversionPlan(cameras=(CAMERA,), layout="width", size=(8, 8), stride=stride, window=4, hop=1)
    return convert(raw, out, plan, encoders, skip_bad=skip_bad, progress=False)


def test_a_clip_of_two_instructions_is_refused_and_one_of_the_same_is_made_once(tmp_path):
    write(tmp_path / "two/A", 16, segments=[(0, 16, "tidy the table"), (4, 12, "pick up the cup")])
    with pytest.raises(ValueError, match="rows 4 to 8 of episode 0 belong to two instructions, 'tidy the table' and"):
        run(tmp_path / "two", tmp_path / "out", clips=True)
    assert run(tmp_path / "two", tmp_path / "out", clips=True, skip_bad=True).bad
    write(tmp_path / "one/A", 16, segments=[(0, 16, "tidy"), (4, 12, "tidy")])
    for _ in range(2):
        run(tmp_path / "one", tmp_path / "once", clips=True)
        found = find_segments(tmp_path / "once", cameras=[CAMERA])
        assert len(found) == len(set(found)) > 4


def test_a_data_set_that_is_left_out_is_found_by_no_training(tmp_path):
    for name in ("A", "B"):
        write(tmp_path / "raw" / name, 8)
    run(tmp_path / "raw", tmp_path / "out")
    (tmp_path / "raw/B/data/chunk-000/episode_000000.parquet").write_bytes(b"damaged")
    assert run(tmp_path / "raw", tmp_path / "out", skip_bad=True).episodes == 1
    assert {segment.repo.name for segment in find_segments(tmp_path / "out", cameras=[CAMERA])} == {"A"}


def test_a_corrected_rate_is_another_recording(tmp_path):
    """It decides which pictures are whose row's."""
    write(tmp_path / "raw/A", 24, fps=30, video=True)
    run(tmp_path / "raw", tmp_path / "out", stride=3)
    (segment,) = find_segments(tmp_path / "out", cameras=[CAMERA])
    before = read_latents(segment.latents(CAMERA)).latents
    say_rate(tmp_path / "raw/A", 10)
    with pytest.raises(ValueError, match="another recording"):
        run(tmp_path / "raw", tmp_path / "out", stride=3)
    run(tmp_path / "raw", tmp_path / "new", stride=3)
    (segment,) = find_segments(tmp_path / "new", cameras=[CAMERA])
    assert not torch.equal(read_latents(segment.latents(CAMERA)).latents, before)


@pytest.mark.parametrize("prompt", ["把红色方块放进碗里", "Открой ящик", "サッカー"])
def test_prompts_of_any_script_are_told_apart(prompt):
    assert not torch.equal(encode_text(prompt), encode_text(""))
    assert not torch.equal(encode_text("Öffne"), encode_text("äffne"))
    assert torch.equal(encode_text("Open_the box!"), encode_text("open the BOX"))
