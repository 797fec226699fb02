# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")

import av
import pyarrow.parquet as pq
from raw_sets import CAMERAS, LENGTHS, actions, shade, wan

from flashwam.data.actions import ActionNorm
from flashwam.data.clips import read_clip
from flashwam.data.controls import ControlSpace
from flashwam.data.conversion import ConversionPlan
from flashwam.data.convert import convert
from flashwam.data.hashed_text import encode_text
from flashwam.data.lerobot import SegmentDataset
from flashwam.data.raw import list_episodes
from flashwam.system.workers import worker_context

PLAN = ConversionPlan(cameras=CAMERAS, layout="width", size=(32, 48), stride=2)
SEGMENTS = [(0, 0, 26, "fold"), (1, 0, 13, "open"), (1, 13, 30, "shut"), (2, 0, 21, "fold")]


@pytest.fixture(scope="module")
def converted(raw, tmp_path_factory):
    """Both versions, converted in this process."""
    out = tmp_path_factory.mktemp("converted")
    for version in ("v2", "v3"):
        result = convert(raw / version, out / version, PLAN, wan, progress=False)
        assert (result.written, result.kept, result.episodes, result.bad) == (8, 0, 3, {})
    return out


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def latents(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in sorted(root.rglob("*.pth"))}


def same_content(a: Path, b: Path) -> bool:
    for name in {**files(a), **files(b)}:
        if name.endswith((".pth", ".pt")):
            one, other = (torch.load(root / name, weights_only=True) for root in (a, b))
            one, other = (v if isinstance(v, dict) else {"value": v} for v in (one, other))
            equal = set(one) == set(other) and all(
                torch.equal(v, other[k]) if isinstance(v, torch.Tensor) else v == other[k] for k, v in one.items()
            )
        else:
            equal = (a / name).read_bytes() == (b / name).read_bytes()
        if not equal:
            return False
    return True


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("camera", [0, 1])
def test_pictures_of_every_episode_are_its_own(raw, version, camera):
    """Grey levels say which row of which episode a picture is, wherever in a file it lies."""
    for episode in list_episodes(raw / version / "towels", cameras=CAMERAS):
        clip = episode.clips[CAMERAS[camera]]
        rows = list(range(3, episode.length, 5))
        pictures = read_clip(clip.path, [clip.first + row for row in rows], fps=10)
        for row, picture in zip(rows, pictures, strict=True):
            assert abs(picture[30:, 40:].mean() - shade(episode.index, row, camera)) < 3


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_latents_are_the_encoded_pictures(raw, converted, version):
    """Against decoding each whole video in order, and encoding what the stride picks."""
    encoders = wan()
    for episode, start, end, text in SEGMENTS:
        for number, camera in enumerate(CAMERAS):
            folder = converted / version / "towels" / "latents" / "chunk-000" / camera
            value = torch.load(folder / f"episode_{episode:06d}_{start}_{end}.pth", weights_only=True)
            wanted = list(range(start, end, 2))
            wanted = wanted[: (len(wanted) - 1) // 4 * 4 + 1]
            assert value["frame_ids"] == wanted
            if version == "v2":
                path, first = raw / "v2/towels/videos/chunk-000" / camera / f"episode_{episode:06d}.mp4", 0
            else:
                place = 0 if number == 0 else min(1, episode)
                path = raw / "v3/towels/videos" / camera / "chunk-000" / f"file-{place:03d}.mp4"
                first = sum(LENGTHS[:episode]) if number == 0 else LENGTHS[1] * (episode == 2)
            with av.open(str(path)) as container:
                every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            pictures = torch.from_numpy(np.stack([every[first + row] for row in wanted])).permute(0, 3, 1, 2).float()
            small = torch.nn.functional.interpolate(pictures, (32, 48), mode="bilinear", align_corners=False)
            expected = encoders.video((small / 127.5 - 1).transpose(0, 1))
            assert value["latent_num_frames"] == expected.shape[1] == (len(wanted) - 1) // 4 + 1
            for f in range(expected.shape[1]):
                for y in range(2):
                    for x in range(3):
                        row = value["latent"][(f * 2 + y) * 3 + x].float()
                        assert torch.allclose(row, expected[:, f, y, x], rtol=1e-2, atol=1e-2)
            assert torch.equal(value["text_emb"].float(), encode_text(text))
            assert (value["fps"], value["ori_fps"], value["start_frame"], value["end_frame"]) == (5, 10, start, end)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_the_reader_reads_what_was_converted(converted, version):
    norm = ActionNorm(q01=(-1.0,) * 30, q99=(1.0,) * 30, used=tuple(range(7)), clip=None)
    data = SegmentDataset(
        converted / version, cameras=CAMERAS, layout="width", space=ControlSpace(norm=norm), window_frames=8, stride=2
    )
    assert [(s.episode, s.start, s.end) for s in data.segments] == [s[:3] for s in SEGMENTS]
    for number, (episode, start, _, text) in enumerate(SEGMENTS):
        sample = data.segment(number)
        assert sample.prompt == text
        frames = sample.video.shape[1]
        assert sample.video.shape == (48, frames, 2, 6)
        rows = norm.denormalise(sample.action).flatten(1).T[8:]
        assert np.allclose(rows, actions(episode)[start : start + 8 * (frames - 1)], atol=1e-5)


def test_both_versions_give_the_same_data(converted):
    """But for the videos, which each version compresses anew."""
    for name in files(converted / "v2"):
        if name.endswith(".pth"):
            a, b = (torch.load(converted / v / name, weights_only=True) for v in ("v2", "v3"))
            assert a.keys() == b.keys()
            assert all(a[key] == b[key] for key in a if not isinstance(a[key], torch.Tensor))
        if name.endswith(".parquet"):
            assert pq.read_table(converted / "v2" / name).equals(pq.read_table(converted / "v3" / name))
        if name.endswith("episodes.jsonl"):
            assert (converted / "v2" / name).read_bytes() == (converted / "v3" / name).read_bytes()


def test_a_second_call_makes_nothing(raw, converted):
    before = latents(converted / "v3")
    result = convert(raw / "v3", converted / "v3", PLAN, wan, progress=False)
    assert (result.written, result.kept, result.episodes) == (0, 8, 3)
    assert latents(converted / "v3") == before


def run_and_die(raw, out, kill_after):
    convert(raw, out, PLAN, functools.partial(wan, kill_after), progress=False)


def test_a_killed_conversion_resumes_to_the_same_files(raw, converted, tmp_path):
    out = tmp_path / "out"
    process = worker_context("flashwam.data.convert", wan.__module__).Process(
        target=run_and_die, args=(raw / "v3", out, 5)
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    made = latents(out)
    assert len(made) == 5
    assert not (out / "towels" / "meta").exists()
    # As if it had died while writing.
    half = out / "towels" / "latents" / "chunk-000" / CAMERAS[0] / f".episode_000002_0_21.pth.{process.pid}.tmp"
    half.write_bytes(b"half a file")
    result = convert(raw / "v3", out, PLAN, wan, progress=False)
    assert (result.written, result.kept) == (3, 5)
    assert {name: latents(out)[name] for name in made} == made
    assert not half.exists()
    assert set(files(out)) == set(files(converted / "v3"))
    assert same_content(out, converted / "v3")


def test_prompts_are_prepared_once_and_only_for_what_is_missing(raw, tmp_path):
    prepared = []

    def make():
        return dataclasses.replace(wan(), prepare=prepared.append)

    # A single data set may be given itself.
    convert(raw / "v2" / "towels", tmp_path / "out", PLAN, make, progress=False)
    assert prepared == [["fold", "open", "shut"]]
    (tmp_path / "out/towels/latents/chunk-000" / CAMERAS[0] / "episode_000000_0_26.pth").unlink()
    convert(raw / "v2" / "towels", tmp_path / "out", PLAN, make, progress=False)
    convert(raw / "v2" / "towels", tmp_path / "out", PLAN, make, progress=False)
    assert prepared[1:] == [["fold"]]


def test_processes_change_nothing(raw, converted, tmp_path):
    result = convert(raw / "v3", tmp_path / "out", PLAN, wan, processes=2, progress=False)
    assert result.written == 8
    assert same_content(tmp_path / "out", converted / "v3")


def test_another_plan_or_encoder_is_refused_the_folder(raw, converted):
    other = ConversionPlan(cameras=CAMERAS, layout="width", size=(32, 48), stride=1)
    with pytest.raises(ValueError, match="stride: 2 there, 1 now"):
        convert(raw / "v2", converted / "v2", other, wan, progress=False)
    with pytest.raises(ValueError, match="lie in each other"):
        convert(raw / "v2", raw / "v2" / "out", PLAN, wan, progress=False)


def bad_video(repo):
    path = repo / "videos" / "chunk-000" / CAMERAS[1] / "episode_000002.mp4"
    path.write_bytes(path.read_bytes()[:400])
    return path


def bad_video_gone(repo):
    path = repo / "videos" / "chunk-000" / CAMERAS[1] / "episode_000002.mp4"
    path.unlink()
    return path


def bad_video_short(repo):
    path = repo / "videos" / "chunk-000" / CAMERAS[1] / "episode_000002.mp4"
    shutil.copy(repo / "videos" / "chunk-000" / CAMERAS[1] / "episode_000000.mp4", path)
    from raw_sets import write_video

    write_video(path, [100] * 12, (48, 64))
    return path


def bad_table(repo):
    path = repo / "data" / "chunk-000" / "episode_000002.parquet"
    path.write_bytes(b"PAR1" * 40)
    return path


def bad_table_short(repo):
    path = repo / "data" / "chunk-000" / "episode_000002.parquet"
    pq.write_table(pq.read_table(path).slice(0, 20), path)
    return path


@pytest.mark.parametrize("damage", [bad_video, bad_video_gone, bad_video_short, bad_table, bad_table_short])
def test_a_bad_episode_is_refused_by_name_or_skipped_and_listed(raw, tmp_path, damage):
    repo = tmp_path / "raw" / "towels"
    shutil.copytree(raw / "v2" / "towels", repo)
    path = damage(repo)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        convert(tmp_path / "raw", tmp_path / "out", PLAN, wan, progress=False)
    assert str(path) in str(caught.value)
    result = convert(tmp_path / "raw", tmp_path / "out", PLAN, wan, progress=False, skip_bad=True)
    assert result.episodes == 2
    assert len(result.bad) == 1
    assert str(path) in next(iter(result.bad.values()))
    lines = (tmp_path / "out" / "towels" / "meta" / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(line)["episode_index"] for line in lines] == [0, 1]


def test_a_segment_too_short_for_two_frames_is_refused(raw, tmp_path):
    plan = ConversionPlan(cameras=CAMERAS, layout="width", size=(32, 48), stride=4)
    with pytest.raises(ValueError, match=r"rows 0 to 13 of episode 1 hold 1 pictures"):
        convert(raw / "v2", tmp_path / "out", plan, wan, progress=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"codebase_version": "v4.0"}, "v4.0 is not known"),
        ({"features": None}, "has no features"),
        ({"features": {CAMERAS[0]: {"dtype": "video"}}}, "has no video observation.images.wrist"),
        ({"fps": 0}, "positive fps"),
        ({"data_path": "data/{nonsense}"}, "line 1: not an episode's record"),
    ],
)
def test_a_foreign_data_set_is_refused_by_name(raw, tmp_path, change, told):
    repo = tmp_path / "raw" / "towels"
    shutil.copytree(raw / "v2" / "towels", repo)
    path = repo / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=told) as caught:
        convert(tmp_path / "raw", tmp_path / "out", PLAN, wan, progress=False)
    assert str(repo) in str(caught.value)
