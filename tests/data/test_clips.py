# SPDX-License-Identifier: Apache-2.0
"""Pictures in a table instead of a video, and depth maps, which are no pictures in colour."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av")

import av
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from raw_edits import PLAN, run
from raw_sets import CAMERAS, FPS, shade

from flashwam.data.raw import list_episodes

LATENTS = "latents/chunk-000/{}/episode_000002_0_21.pth"


def encoded(picture, codec="png", pix_fmt="rgb24"):
    """The bytes of one picture."""
    encoder = av.CodecContext.create(codec, "w")
    kind = {"gray16be": "gray16le", "gray10le": "gray16le"}.get(pix_fmt, "rgb24")
    frame = av.VideoFrame.from_ndarray(picture, format=kind).reformat(format=pix_fmt)
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, pix_fmt
    encoder.time_base = Fraction(1, FPS)
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def picture(episode, row, camera):
    out = np.full((48, 64, 3), shade(episode, row, camera), np.uint8)
    out[:, :20] = [200, 30, 90]
    return out


def as_struct(repo, data, name):
    return {"bytes": data, "path": name}


def as_bytes(repo, data, name):
    return data


def as_file(repo, data, name):
    path = repo / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"bytes": None, "path": f"images/{name}"}


def as_name(repo, data, name):
    return as_file(repo, data, name)["path"]


def into_table(repo, hold=as_struct, codec="png", pix_fmt="rgb24", change=lambda values: values):
    """Puts pictures into the tables and takes the videos away."""
    path = repo / "meta" / "info.json"
    info = json.loads(path.read_text())
    for camera in CAMERAS:
        info["features"][camera]["dtype"] = "image"
    path.write_text(json.dumps(info))
    for file in sorted((repo / "data").rglob("*.parquet")):
        table = pq.read_table(file)
        places = list(zip(table["episode_index"].to_pylist(), table["frame_index"].to_pylist(), strict=True))
        for number, camera in enumerate(CAMERAS):
            values = [
                hold(repo, encoded(picture(e, row, number), codec, pix_fmt), f"{camera}/{e}_{row}.{codec}")
                for e, row in places
            ]
            table = table.append_column(camera, pa.array(change(values)))
        pq.write_table(table, file)
    for file in sorted((repo / "videos").rglob("*.mp4")):
        file.unlink()


@pytest.mark.parametrize("hold", [as_struct, as_bytes, as_file, as_name])
def test_pictures_in_the_table_are_read_like_a_videos(repo, hold):
    into_table(repo, hold)
    assert run(repo).episodes == 3
    out = repo.parent.parent / "out" / "towels"
    for number, camera in enumerate(CAMERAS):
        value = torch.load(out / LATENTS.format(camera), weights_only=True)
        for frame, row in enumerate(value["frame_ids"][::4]):
            expected = torch.from_numpy(picture(2, row, number).mean((0, 1)) / 127.5 - 1).float()
            assert torch.allclose(value["latent"][frame].float(), expected, atol=1e-2)
    # The result has latents in the place of pictures.
    table = pq.read_table(out / "data/chunk-000/episode_000002.parquet")
    assert not set(table.column_names) & set(CAMERAS)
    assert not set(json.loads((out / "meta/info.json").read_text())["features"]) & set(CAMERAS)


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("mjpeg", "yuvj444p"), ("png", "rgba"), ("bmp", "bgr24"), ("tiff", "rgb24")]
)
def test_pictures_of_several_formats_are_read(repo, codec, pix_fmt):
    into_table(repo, codec=codec, pix_fmt=pix_fmt)
    (episode, *_) = list_episodes(repo, cameras=CAMERAS)
    pictures = episode.clips[CAMERAS[0]].read([0, 5], fps=FPS)
    for row, found in zip((0, 5), pictures, strict=True):
        assert np.abs(found.astype(int) - picture(0, row, 0)).max() <= (6 if codec == "mjpeg" else 0)


def replaced(value):
    return lambda values: [*values[:9], value, *values[10:]]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"bytes": None, "path": None}, "there is no picture"),
        ({"bytes": b"", "path": ""}, "there is no picture"),
        ({"bytes": b"GIF89a...", "path": None}, "expected a PNG, JPEG, WebP, BMP or TIFF"),
        ({"bytes": b"#EXTM3U\nfile:///etc/passwd", "path": None}, "expected a PNG"),
        ({"bytes": b"\x89PNG\r\n\x1a\n" + b"\0" * 90, "path": None}, "not a readable picture"),
        ({"bytes": None, "path": "images/none.png"}, "is missing"),
        ({"bytes": None, "path": "/etc/hostname"}, "which is not below it"),
        ({"bytes": None, "path": "images/../../../x.png"}, "which is not below it"),
        ({"bytes": encoded(np.zeros((8, 8, 3), np.uint8)), "path": None}, r"the picture is \(8, 8\), others are"),
        (None, "there is no picture"),
    ],
)
def test_a_picture_that_is_none_is_told_by_its_row(repo, value, told):
    into_table(repo, change=replaced(value))
    (episode, *_) = list_episodes(repo, cameras=CAMERAS)
    clip = episode.clips[CAMERAS[1]]
    assert len(clip.read([7, 8], fps=FPS)) == 2
    with pytest.raises((ValueError, FileNotFoundError), match=told) as caught:
        clip.read([8, 9], fps=FPS)
    assert f"camera {CAMERAS[1]}, episode 0, row 9" in str(caught.value) or "not below" in told


def test_a_camera_that_is_in_no_table_is_found_before_a_picture_is_encoded(repo):
    into_table(repo)
    for file in sorted((repo / "data").rglob("*.parquet")):
        pq.write_table(pq.read_table(file).drop_columns([CAMERAS[1]]), file)
    with pytest.raises(ValueError, match=rf"has no column '{CAMERAS[1]}' .*; columns: action, .*{CAMERAS[0]}"):
        run(repo)


@pytest.mark.parametrize("key", ["actions", "action.joints"])
def test_a_key_names_the_column_of_the_actions(repo, key):
    for file in sorted((repo / "data").rglob("*.parquet")):
        table = pq.read_table(file)
        other = table["action"]
        table = table.rename_columns({"action": key}).append_column("action", pa.array([[0.0]] * len(other)))
        pq.write_table(table, file)
    path = repo / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"][key] = info["features"].pop("action")
    path.write_text(json.dumps(info))
    assert run(repo, plan=replace(PLAN, action_key=key)).episodes == 3
    out = repo.parent.parent / "out" / "towels"
    table = pq.read_table(out / "data/chunk-000/episode_000001.parquet")
    assert {len(row) for row in table["action"].to_pylist()} == {7}
    assert {len(row) for row in table["other_action"].to_pylist()} == {1}
    assert json.loads((out / "meta/info.json").read_text())["features"]["action"]["shape"] == [7]
    with pytest.raises(ValueError, match=r"action_key: 'action.*' there, 'action' now|controls"):
        run(repo)


DEPTH_SIGNS = [
    {"info": {"video.is_depth_map": True}},
    {"info": {"is_depth_map": True}},
    {"video_info": {"video.is_depth_map": "true"}},
    {"is_depth_map": 1},
    {"info": [{"is_depth": "True "}]},
    {"info": {"video.pix_fmt": " GRAY16LE"}},
    {"info": {"video": {"is_depth_map": True}}},
    {"info": {"video.pix_fmt": "gray12le", "video.is_depth_map": False}},
    {"video_info": {"video.pix_fmt": "gray16le"}},
]


def mark(repo, feature):
    path = repo / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"][CAMERAS[1]] |= feature
    path.write_text(json.dumps(info))


@pytest.mark.parametrize("sign", DEPTH_SIGNS, ids=str)
def test_a_camera_of_depth_maps_is_refused_unless_it_is_asked_for(repo, sign):
    mark(repo, sign)
    with pytest.raises(ValueError, match=rf"camera {CAMERAS[1]} is a depth map .*data\.depth_as_grey=true"):
        list_episodes(repo, cameras=CAMERAS)
    assert len(list_episodes(repo, cameras=CAMERAS[:1])) == 3
    assert len(list_episodes(repo, cameras=CAMERAS, depth=True)) == 3


@pytest.mark.parametrize(
    "sign", [{"info": {"video.is_depth_map": False, "video.pix_fmt": "yuv420p10le"}}, {"info": {}}]
)
def test_a_camera_that_says_it_is_none_is_taken(repo, sign):
    mark(repo, sign)
    assert len(list_episodes(repo, cameras=CAMERAS)) == 3


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "is_depth"),
    [
        ("libx264", "gray10le", True),
        ("libx264", "gray", False),
        ("libx264", "yuv420p10le", False),
        ("ffv1", "gray16le", True),
    ],
)
def test_a_video_of_more_grey_than_a_picture_has_is_a_depth_map(repo, codec, pix_fmt, is_depth):
    """Though `meta/` says nothing of it."""
    for path in [path for path in sorted((repo / "videos").rglob("*.mp4")) if CAMERAS[1] in str(path)]:
        with av.open(str(path)) as container:
            count = sum(1 for _ in container.decode(video=0))
        with av.open(str(path), "w", format="matroska" if codec == "ffv1" else "mp4") as container:
            stream = container.add_stream(codec, rate=FPS)
            stream.height, stream.width, stream.pix_fmt = 48, 64, pix_fmt
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="rgb24")
                container.mux(stream.encode(frame.reformat(format=pix_fmt)))
            container.mux(stream.encode())
    if is_depth:
        with pytest.raises(ValueError, match=rf"{CAMERAS[1]}.*is a depth map by its pixel format {pix_fmt}"):
            run(repo)
    assert run(repo, depth=is_depth).episodes == 3


def test_a_picture_of_more_grey_than_eight_bits_is_a_depth_map(repo):
    deep = encoded(np.full((48, 64), 5000, np.uint16), pix_fmt="gray16be")
    into_table(repo, change=lambda values: [{"bytes": deep, "path": None} for _ in values])
    with pytest.raises(ValueError, match=r"camera .*is a depth map by its pixel format gray16be"):
        run(repo)
    assert run(repo, depth=True).episodes == 3
