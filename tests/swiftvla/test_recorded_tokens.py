# SPDX-License-Identifier: Apache-2.0
"""Tokens of recorded episodes: of which pictures, in which order, and made once."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_sets import CAMERAS, FPS, shade
from recorded_sets import SIDE, save_geometry, tiny, write_recordings
from safetensors.torch import load_file

from flashwam.data.clips import read_clip
from flashwam.data.controls import ControlSpace
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.episodes import CAMERA
from flashwam.data.lerobot import SegmentDataset
from flashwam.pipeline.sources import convert_raw, segment_dataset
from flashwam.swiftvla.geometry import GeometryTransformer
from flashwam.swiftvla.recorded_tokens import squared
from flashwam.swiftvla.source import PrivilegedSource
from flashwam.swiftvla.streaming import StreamingGeometry
from flashwam.swiftvla.streaming_tokens import StreamingTokens
from flashwam.swiftvla.tokens import encode_tokens

CAPACITIES = (1, 3)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Root of raw and converted episodes, and their windows but those of the episode that is held out."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("recorded")
    write_recordings(root)
    recipe = tiny(root)
    convert_raw(recipe, root / "raw", root / "data", progress=False)
    return root, segment_dataset(recipe, senses=("state",))


def settings(root, **changes):
    known = {"pretrained": str(root / "geometry"), "raw": str(root / "raw"), "side": 2, "capacities": CAPACITIES}
    return StreamingTokens(**(known | changes))


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_they_are_those_of_the_simulators_path_from_the_same_pictures(told, geometry, tmp_path):
    """A collected data set is a recorded one too, with its pictures beside its latents."""
    geometry.save_pretrained(tmp_path / "geometry")
    simulated = EpisodeDataset(told, window_frames=3, split="all", senses=("state",))
    space = ControlSpace(norm=simulated.norm)
    windows = SegmentDataset(
        told, cameras=[CAMERA], layout="width", space=space, window_frames=3, senses=("state",), seed=4
    )
    expected = encode_tokens(told, StreamingGeometry(geometry, side=2), capacities=CAPACITIES, progress=False)
    chosen = settings(tmp_path, raw=None)
    found = chosen.recorded(windows, tmp_path / "kept", progress=False)
    assert (found.tokens, found.channels, found.capacities) == (4, 32, CAPACITIES)
    torch.testing.assert_close(found.mean, torch.tensor(expected.mean), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.std, torch.tensor(expected.std), atol=1e-6, rtol=1e-5)
    told_rows = set()
    for index in range(40):
        window = windows.locate(index)
        told_rows.add((window.episode, window.row))
        for capacity in CAPACITIES:
            same = expected.of(window, capacity)
            torch.testing.assert_close(found.of(window, capacity), same, atol=1e-5, rtol=1e-5)
        state = windows[index]["sense/state"]
        assert state[:3, 0, 0, 0].tolist() == [window.row, 2 * window.row, window.episode]
    assert len(told_rows) > 5


def by_hand(root, episode, rows, capacity):
    """Tokens of every picture of these rows, of the first camera after the second, straight from the raw videos."""
    before = {0: (0, 0), 1: (26, 0)}[episode]
    places = [(CAMERAS[1], episode, before[1]), (CAMERAS[0], 0, before[0])]
    views = []
    for camera, number, offset in places:
        path = root / "raw" / "towels" / "videos" / camera / "chunk-000" / f"file-{number:03d}.mp4"
        views.append(squared(read_clip(path, [offset + row for row in rows], fps=FPS), SIDE))
    model = GeometryTransformer.from_pretrained(root / "geometry")
    stream = StreamingGeometry(model, side=2, capacity=capacity)
    return dict(zip(rows, stream.stream(np.stack(views, 1), np.arange(len(rows)) == 0), strict=True))


def test_every_camera_refreshes_the_cache_and_the_first_one_speaks(recorded, tmp_path):
    root, windows = recorded
    found = settings(root).recorded(windows, tmp_path, progress=False)
    # Episode 1 has two segments, the second from row 13: pictures of other rows, so a stream of its own.
    streams = {(0, 0): range(0, 26, 2), (1, 0): range(0, 13, 2), (1, 1): range(1, 30, 2)}
    expected = {(*key, k): by_hand(root, key[0], rows, k) for key, rows in streams.items() for k in CAPACITIES}
    seen = set()
    for index in range(24):
        window = windows.locate(index)
        seen.add((window.episode, window.row % 2))
        for capacity in CAPACITIES:
            row = expected[window.episode, window.row % 2, capacity][window.row]
            row = (row.half().float() - found.mean) / found.std
            torch.testing.assert_close(found.of(window, capacity), row, atol=1e-5, rtol=1e-5)
    assert seen == set(streams)


def test_the_order_of_the_cameras_can_be_named(recorded, tmp_path):
    root, windows = recorded
    usual = settings(root).recorded(windows, tmp_path, progress=False)
    named = settings(root, views=(CAMERAS[1], CAMERAS[0])).recorded(windows, tmp_path, progress=False)
    assert named.places == usual.places
    one = settings(root, views=(CAMERAS[0],)).recorded(windows, tmp_path, progress=False)
    window = windows.locate(1)
    assert not torch.allclose(one.of(window, 3), usual.of(window, 3), atol=1e-2)
    with pytest.raises(ValueError, match="different cameras"):
        settings(root, views=(CAMERAS[0], CAMERAS[0]))


def test_what_is_there_is_kept_and_the_rest_made(recorded, tmp_path):
    root, windows = recorded
    first = settings(root).recorded(windows, tmp_path, progress=False)
    before = files(tmp_path)
    assert len(before) == 3
    assert files(root / "data") == {}
    again = settings(root).recorded(windows, tmp_path, progress=False)
    assert files(tmp_path) == before
    assert torch.equal(again.mean, first.mean)
    path = first.places[windows.locate(0).repo, 1][0]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    settings(root).recorded(windows, tmp_path, progress=False)
    assert path.read_bytes() == whole
    other = {"geometry": save_geometry(tmp_path / "other", seed=1)}
    settings(root, pretrained=str(other["geometry"])).recorded(windows, tmp_path, progress=False)
    assert len(files(tmp_path)) == 6 + 1  # and the other network's weights


def test_pictures_that_changed_are_seen_anew(recorded, tmp_path):
    root, windows = recorded
    shutil.copytree(root / "raw", tmp_path / "raw")
    before = settings(root).recorded(windows, tmp_path / "kept", progress=False)
    same = settings(root, raw=str(tmp_path / "raw")).recorded(windows, tmp_path / "kept", progress=False)
    assert same.places == before.places
    video = next((tmp_path / "raw" / "towels" / "videos" / CAMERAS[1]).rglob("file-001.mp4"))
    shutil.copy(next((tmp_path / "raw" / "towels" / "videos" / CAMERAS[0]).rglob("*.mp4")), video)
    changed = settings(root, raw=str(tmp_path / "raw")).recorded(windows, tmp_path / "kept", progress=False)
    apart = {key[1] for key in before.places if before.places[key] != changed.places[key]}
    assert apart == {1}  # the video of the second camera that episode 1 lies in


def test_an_episode_without_pictures_is_left_out_where_bad_files_are_skipped(recorded, tmp_path):
    root, _ = recorded
    shutil.copytree(root / "raw", tmp_path / "raw")
    video = next((tmp_path / "raw" / "towels" / "videos" / CAMERAS[1]).rglob("file-000.mp4"))
    video.write_bytes(video.read_bytes()[:40])
    chosen = settings(root, raw=str(tmp_path / "raw"))
    with pytest.raises(ValueError, match=rf"{video.name}"):
        chosen.recorded(segment_dataset(tiny(root)), tmp_path / "kept", progress=False)
    windows = segment_dataset(tiny(root, **{"data.skip_bad": True}))
    found = chosen.recorded(windows, tmp_path / "kept", progress=False)
    assert {episode for _, episode in found.places} == {1}
    assert [Path(name).name for name in windows.bad.reasons] == ["episode_000000_0_26.pth"]
    drawn = PrivilegedSource(windows, tokens=found).batch(range(12))
    assert drawn.extra["auxiliary"].shape == (12, 4, 32)
    assert {windows.locate(index).episode for index in range(12)} == {1}
    video.unlink()
    again = segment_dataset(tiny(root, **{"data.skip_bad": True}))
    assert chosen.recorded(again, tmp_path / "kept", progress=False).places == found.places


def test_two_data_sets_of_the_same_pictures_share_their_tokens(recorded, tmp_path):
    root, _ = recorded
    for folder in ("raw", "data"):
        shutil.copytree(root / folder, tmp_path / folder)
        shutil.copytree(root / folder / "towels", tmp_path / folder / "more")
    windows = segment_dataset(tiny(root, **{"data.root": tmp_path / "data", "data.tasks": ["towels", "more"]}))
    found = settings(root, raw=str(tmp_path / "raw")).recorded(windows, tmp_path / "kept", progress=False)
    assert len(found.places) == 4
    assert len(files(tmp_path / "kept")) == 3


class Stopped(Exception):
    pass


def test_a_stopped_call_goes_on_to_the_same_tokens(recorded, tmp_path, monkeypatch):
    root, windows = recorded
    whole = settings(root).recorded(windows, tmp_path / "whole", progress=False)
    finish, passes = GeometryTransformer.finish, []

    def stopping(self, begun, cache):
        passes.append(1)
        if len(passes) > 2 * 2 * 14:  # two cameras, two caches, the thirteen pictures of episode 0 and one more
            raise Stopped
        return finish(self, begun, cache)

    monkeypatch.setattr(GeometryTransformer, "finish", stopping)
    with pytest.raises(Stopped):
        settings(root).recorded(windows, tmp_path / "parts", progress=False)
    monkeypatch.undo()
    before = files(tmp_path / "parts")
    assert len(before) == 1
    parts = settings(root).recorded(windows, tmp_path / "parts", progress=False)
    assert before.items() <= files(tmp_path / "parts").items()
    for key, (path, _) in whole.places.items():
        one, other = load_file(path), load_file(parts.places[key][0])
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(parts.mean, whole.mean)
    assert torch.equal(parts.std, whole.std)


def test_of_two_processes_one_makes_them(recorded, tmp_path):
    root, windows = recorded
    passes = tmp_path / "passes"
    passes.mkdir()
    children = [_fork(root, windows, tmp_path / "kept", passes / str(number)) for number in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    found = settings(root).recorded(windows, tmp_path / "kept", progress=False)
    encoded = sorted(int((passes / str(number)).read_text()) for number in range(2))
    # One process does nothing; the other sees 13 pictures of episode 0, of episode 1 those of even and odd rows.
    rows = sum(len(range(first, max(rows) + 1, 2)) for first, rows in _streams(found))
    assert encoded == [0, 2 * rows]


def _streams(found):
    for _, rows in found.places.values():
        for first in (0, 1):
            if some := [row for row in rows if row % 2 == first]:
                yield first, some


def _fork(root, windows, folder, told: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        # The threads of this process are not there in its fork.
        torch.set_num_threads(1)
        begin, seen = GeometryTransformer.begin, []
        GeometryTransformer.begin = lambda self, *a, **k: seen.append(1) or begin(self, *a, **k)
        settings(root).recorded(windows, folder, progress=False)
        told.write_text(str(len(seen)))
        code = 0
    finally:
        os._exit(code)


def test_a_square_picture_is_left_alone_and_another_is_smoothed():
    grey = np.full((1, 48, 64, 3), shade(0, 0, 0), np.uint8)
    assert np.array_equal(squared(grey, SIDE), np.full((1, SIDE, SIDE, 3), shade(0, 0, 0), np.uint8))
    square = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    assert squared(square, SIDE) is square
    stripes = np.tile(np.array([0, 255], np.uint8)[None, None, :, None], (1, 32, 16, 3))
    assert abs(int(squared(stripes, SIDE)[0, 8, 8, 0]) - 127) < 20


def test_what_is_missing_is_named_with_its_remedy(recorded, tmp_path):
    root, windows = recorded
    with pytest.raises(ValueError, match=r"provider\.pretrained"):
        settings(root, pretrained=None).recorded(windows, tmp_path)
    with pytest.raises(ValueError, match=rf"no video {CAMERAS[1]}.*provider\.raw"):
        settings(root, raw=None).recorded(windows, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"provider\.raw"):
        settings(root, raw=str(tmp_path)).recorded(windows, tmp_path)
    with pytest.raises(ValueError, match=r"no video other; it has .*provider\.raw"):
        settings(root, views=("other",)).recorded(windows, tmp_path)
    with pytest.raises(ValueError, match="a simulator has one camera"):
        settings(root).prepare(root, ["towels"])
    found = settings(root, raw=str(root / "raw" / "towels")).recorded(windows, tmp_path, progress=False)
    window = windows.locate(0)
    with pytest.raises(ValueError, match="for a cache of 6"):
        found.of(window, 6)
