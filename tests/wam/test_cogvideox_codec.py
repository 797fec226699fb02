# SPDX-License-Identifier: Apache-2.0
"""The data that a robot's raw episodes are converted to, and what the closed loop sees of the same pictures and actions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_cogvideox
from torch.testing import assert_close

pytest.importorskip("av")
from raw_sets import CAMERAS, actions, write_v2

from flashwam.data.actions import ActionNorm
from flashwam.data.cameras import CameraLayout
from flashwam.data.clips import read_clip
from flashwam.data.controls import ControlSpace
from flashwam.data.conversion import ConversionPlan
from flashwam.data.convert import convert
from flashwam.data.encoders import to_pixels
from flashwam.data.lerobot import SegmentDataset
from flashwam.data.quantiles import control_rows, norm_of
from flashwam.data.raw import list_episodes
from flashwam.pipeline.sources import find_encoders
from flashwam.wam.codec import CodecNote
from flashwam.wam.cogvideox.codec import CogVideoXCodec
from flashwam.wam.cogvideox.vae import CogVideoXVae

SIZE = (32, 32)
PLAN = ConversionPlan(cameras=CAMERAS[:1], layout="width", size=SIZE, stride=1, resize="cover", window=3, hop=4)
NORM = ActionNorm(q01=(-2.0,) * 6 + (-1.0,), q99=(2.0,) * 6 + (1.0,), used=tuple(range(7)), clip=1.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cogvideox(tmp_path_factory.mktemp("base"), transformer=False)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    write_v2(root / "towels")
    return root


@pytest.fixture(scope="module")
def converted(base: Path, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted")
    done = convert(raw, out, PLAN, find_encoders(base), progress=False)
    assert (done.bad, done.episodes) == ({}, 3)
    assert done.written == len(samples(out))
    return out


def samples(root: Path) -> SegmentDataset:
    space = ControlSpace(norm=NORM, first="zero")
    return SegmentDataset(root, cameras=CAMERAS[:1], layout="width", space=space, window_frames=3, seed=1)


def codec(base: Path, **changes: Any) -> CogVideoXCodec:
    layout = {"cameras": CAMERAS[:1], "image_size": SIZE, "factor": 8, "resize": "cover"}
    note = CodecNote(family="cogvideox", checkpoint=base, cameras=CameraLayout(**(layout | changes)), actions=NORM)
    return CogVideoXCodec.from_note(note, dtype=torch.bfloat16)


def test_every_sample_is_a_clip_of_its_own(converted: Path) -> None:
    data = samples(converted)
    rows = [(s.episode, s.start, s.end) for s in data.segments]
    # Nine pictures each, while there are nine; episode 1 has two instructions.
    expected = [(0, start, start + 9) for start in range(0, 17, 4)]
    expected += [(1, start, start + 9) for start in (0, 4)] + [(1, start, start + 9) for start in (13, 17, 21)]
    expected += [(2, start, start + 9) for start in range(0, 13, 4)]
    assert rows == expected
    assert data.shapes["alone"] == data.shapes["video"] == (4, 4, 4)
    assert data.factor == 4
    # All clips of a prompt share one file of its embedding.
    assert len(list((converted / "towels" / "text").iterdir())) == 3


def test_the_observation_is_what_the_closed_loop_sees(base: Path, raw: Path, converted: Path) -> None:
    """Encoded alone, whichever clip it begins; the clip's own latents are what is drawn."""
    data, own = samples(converted), codec(base)
    vae = CogVideoXVae.from_pretrained(base / "vae", dtype=torch.bfloat16)
    episodes = {episode.index: episode for episode in list_episodes(raw / "towels", cameras=CAMERAS[:1])}
    index = list(range(len(data)))
    batch = data.batch(index)
    for row in index:
        segment = data.segments[data._number(row)]
        clip = episodes[segment.episode].clips[CAMERAS[0]]
        pictures = read_clip(clip.path, list(range(segment.start, segment.end)), fps=10)
        seen = own.open().encode([{CAMERAS[0]: pictures[0]}])
        # Files hold bfloat16.
        assert_close(batch.history["video"][row, :, :1], seen[0], atol=1e-2, rtol=1e-2)
        whole = vae.encode(to_pixels(pictures, SIZE, resize="cover")[None])[0]
        assert_close(batch.clean["video"][row], whole, atol=1e-2, rtol=1e-2)
        assert torch.equal(batch.history["video"][row, :, 1:], batch.clean["video"][row, :, 1:])
        assert (seen[0, :, 0] - whole[:, 0]).abs().max() > 0.02
        controls = own.controls(batch.clean["action"][row : row + 1, :, 1:])[0]
        done = actions(segment.episode)[segment.start : segment.start + 8]
        inside = np.clip(done, [-2.0] * 6 + [-1.0], [2.0] * 6 + [1.0])
        np.testing.assert_allclose(controls, inside, atol=1e-5)
    assert_close(batch.text[0], own.text(data.segment(data._number(0)).prompt).float(), atol=0, rtol=0)
    assert not batch.null_text.any()


def test_a_conversion_goes_on_and_refuses_other_clips(base: Path, raw: Path, converted: Path) -> None:
    again = convert(raw, converted, PLAN, find_encoders(base), progress=False)
    assert (again.written, again.kept) == (0, len(samples(converted)))
    import dataclasses

    for change, told in (({"hop": 8}, "hop: 4 there, 8 now"), ({"resize": "stretch"}, "resize: 'cover' there")):
        with pytest.raises(ValueError, match=told):
            convert(raw, converted, dataclasses.replace(PLAN, **change), find_encoders(base), progress=False)
    with pytest.raises(ValueError, match="multiple of 2 latent frames; got window_frames 4"):
        convert(raw, converted / ".." / "other", dataclasses.replace(PLAN, window=4), find_encoders(base))


def test_quantiles_leave_a_gripper_alone(converted: Path) -> None:
    rows = control_rows(converted, cameras=CAMERAS[:1])
    norm = norm_of(rows, channels=7, clip=1.0, unscaled=(6,))
    assert (norm.q01[6], norm.q99[6]) == (-1, 1)
    assert norm.q99[5] - norm.q01[5] > 1
    with pytest.raises(ValueError, match="must be below 7"):
        norm_of(rows, channels=7, unscaled=(7,))


def test_controls_are_in_the_robots_units(base: Path) -> None:
    """The inverse of the quantiles' normalisation; a gripper of 0 and 1 passes through."""
    session = codec(base).open()
    raw = np.random.default_rng(0).uniform(-2, 2, (7, 3, 4)).astype(np.float32)
    raw[6] = [[0, 1, 1, 0]] * 3
    model = session.executed(raw)
    assert model.shape == (1, 7, 3, 4, 1)
    assert_close(model[0, :6, :, :, 0], torch.from_numpy(raw[:6]) / 2, atol=1e-6, rtol=0)
    assert_close(model[0, 6, :, :, 0], torch.from_numpy(raw[6]), atol=2e-6, rtol=0)
    np.testing.assert_allclose(session.actions(model), raw, atol=1e-6)
    own = codec(base)
    flat = own.controls(model)
    np.testing.assert_allclose(flat[0], raw.transpose(1, 2, 0).reshape(12, 7), atol=1e-6)
    assert torch.equal(own.executed(flat, 4), session.executed(session.actions(model)))


def test_episodes_in_lock_step_see_what_one_session_sees(base: Path) -> None:
    own = codec(base)
    frames = np.random.default_rng(1).integers(0, 256, (2, 3, 40, 50, 3), np.uint8)
    latents = own.video(frames)
    assert latents.shape == (2, 4, 3, 4, 4)
    for episode in range(2):
        alone = own.open().encode([{CAMERAS[0]: picture} for picture in frames[episode]])
        assert_close(latents[episode : episode + 1], alone, atol=1e-2, rtol=1e-2)
    assert own.pictures(latents).shape == (2, 9, 32, 32, 3)
    assert own.facts["keyframes_per_frame"] == 1
    two = codec(base, cameras=CAMERAS)
    seen = two.open().encode([dict.fromkeys(CAMERAS, frames[0, 0])])
    assert seen.shape == (1, 4, 1, 4, 8)
    with pytest.raises(ValueError, match="one camera"):
        two.video(frames)
    with pytest.raises(ValueError, match="16 pixels a latent, the autoencoder 8"):
        codec(base, factor=16)


def test_covering_keeps_the_middle() -> None:
    """By hand: a picture twice as wide as it is high loses a quarter on either side."""
    picture = np.zeros((1, 16, 32, 3), np.uint8)
    picture[:, :, 8:24] = 200
    assert_close(to_pixels(picture, (16, 16), resize="cover"), torch.full((3, 1, 16, 16), 200 / 127.5 - 1))
    small = to_pixels(picture, (8, 8), resize="cover")
    assert small.shape == (3, 1, 8, 8)
    assert_close(small[..., 2:6], torch.full((3, 1, 8, 4), 200 / 127.5 - 1), atol=0.02, rtol=0)
    assert (small >= -1).all()
    assert (small <= 1).all()
    with pytest.raises(ValueError, match="stretch, cover"):
        to_pixels(picture, (8, 8), resize="crop")


def test_what_is_noted_beside_a_model_is_read_again(base: Path, tmp_path: Path) -> None:
    layout = CameraLayout(cameras=CAMERAS, image_size=SIZE, factor=8, resize="cover")
    note = CodecNote(family="cogvideox", checkpoint=base, cameras=layout, actions=NORM)
    note.write(tmp_path)
    assert CodecNote.read(tmp_path, family="cogvideox") == note
    with pytest.raises(ValueError, match="must say family 'lingbot_va', got 'cogvideox'"):
        CodecNote.read(tmp_path, family="lingbot_va")
    with pytest.raises(FileNotFoundError, match="name a preset"):
        CodecNote.read(tmp_path / "none", family="cogvideox")
    assert json.loads((tmp_path / "codec.json").read_text())["checkpoint"].startswith("..")
