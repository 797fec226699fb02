# SPDX-License-Identifier: Apache-2.0
"""Rollouts of a teacher: reproducible from their seed, made once, found again, and refused where something changed."""

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_codec, tiny_joint_wam, tiny_wam
from torch.testing import assert_close

from flashwam.core.batch import Batch
from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.data.pictures import FramePictures
from flashwam.foresight.rollouts import RolloutStore, TeacherFuture, TrueFuture, seeded_noise
from flashwam.foresight.source import FutureSource, Target
from flashwam.sampling import Rollout, StreamSampler

FAMILIES = {"lingbot_va": tiny_wam, "cogvideox": tiny_joint_wam}


def samplers(steps=2, shift=2.0):
    one = StreamSampler(schedule=NoiseSchedule(shift), consistency=Linear(), steps=steps)
    return {"video": one, "action": one}


class Windows:
    """Random windows of a tiny model; draw i depends on i alone."""

    def __init__(self, wam, chunks=1):
        self.shapes, self.frames, self.asked = wam.shapes, wam.chunk_frames * chunks, []

    def batch(self, indices):
        self.asked += indices
        clean = {name: [] for name in self.shapes}
        for i in indices:
            generator = torch.Generator().manual_seed(i)
            for name, (c, h, w) in self.shapes.items():
                clean[name].append(torch.randn(c, self.frames, h, w, generator=generator))
        clean = {name: torch.stack(parts) for name, parts in clean.items()}
        size = len(indices)
        given = torch.zeros(size, self.frames, dtype=torch.bool)
        given[:, 0] = True
        mask = {name: torch.ones(size, 1, self.frames, 1, 1, dtype=torch.bool) for name in clean}
        return Batch(
            clean=clean,
            history=clean,
            mask=mask,
            given=given,
            text=torch.ones(size, 2, 32) * torch.tensor(indices)[:, None, None],
            null_text=torch.zeros(2, 32),
            index=torch.tensor(indices),
        )


@pytest.fixture(params=FAMILIES)
def teacher(request):
    return FAMILIES[request.param]().eval()


def store(tmp_path, teacher, **changes):
    future = TeacherFuture(teacher, samplers(**changes))
    return RolloutStore(tmp_path, future, FramePictures(tiny_codec().autoencoder), batch_size=2)


def test_a_rollout_is_the_teachers_draw_from_its_seed(teacher, tmp_path):
    chunks = 1 if teacher.conditions_on_first else 2
    batch = Windows(teacher, chunks).batch([3, 4, 5])
    made = store(tmp_path, teacher)
    keys = made.complete([(batch, [11, 12, 13])], progress=False)
    assert len(set(keys)) == 3
    got = made.read(keys[1])
    assert (got.seed, got.settings) == (12, made.settings)

    one = batch.rows([1])
    noise = {n: x[None] for n, x in seeded_noise(12, {n: x[0] for n, x in one.clean.items()}).items()}
    first = {name: x[:, :, :1] for name, x in one.clean.items()}
    rollout = Rollout(teacher, samplers(), text=one.text, first=first)
    size = teacher.chunk_frames
    for k in range(chunks):
        at = slice(k * size, (k + 1) * size)
        drawn = rollout.predict({name: x[:, :, at] for name, x in noise.items()})
        for name, x in drawn.items():
            assert_close(got.drawn[name][None, :, at], x, atol=1e-5, rtol=1e-5)
        if k + 1 < chunks:
            rollout.observe({name: one.clean[name][:, :, at] for name in teacher.streams})
    pictures = FramePictures(tiny_codec().autoencoder).pictures(got.drawn["video"][None])[0]
    assert torch.equal(got.video, pictures)


def test_rollouts_are_made_once_and_a_killed_run_goes_on(teacher, tmp_path, monkeypatch):
    batch = Windows(teacher).batch([0, 1, 2, 3, 4])
    seeds = [7, 8, 9, 10, 11]
    made = store(tmp_path, teacher)
    drawn = []
    draw = TeacherFuture.draw

    def counting(self, batch, noise):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.extend(batch.index.tolist())
        return draw(self, batch, noise)

    monkeypatch.setattr(TeacherFuture, "draw", counting)
    with pytest.raises(KeyboardInterrupt):
        made.complete([(batch, seeds)], progress=False)
    assert drawn == [0, 1, 2, 3]
    drawn.append(None)  # no further interruption
    keys = store(tmp_path, teacher).complete([(batch, seeds)], progress=False)
    assert drawn[5:] == [4]
    again = store(tmp_path, teacher)
    assert again.complete([(batch, seeds)], progress=False) == keys
    assert len(drawn) == 6
    assert not list(tmp_path.rglob("*.tmp"))


def test_whatever_changes_the_draw_changes_its_name(teacher, tmp_path):
    batch = Windows(teacher).batch([0])
    base = store(tmp_path, teacher)
    key = base.key(batch, 0, 5)
    assert base.key(batch, 0, 6) != key
    assert base.key(replace(batch, text=batch.text + 1), 0, 5) != key
    moved = {name: x.clone() for name, x in batch.history.items()}
    moved["video"][0, 0, 0, 0, 0] += 1e-3
    assert base.key(replace(batch, history=moved), 0, 5) != key
    settings = {base.settings, store(tmp_path, teacher, steps=3).settings, store(tmp_path, teacher, shift=3.0).settings}
    with torch.no_grad():
        next(teacher.parameters()).add_(1e-3)
    settings.add(store(tmp_path, teacher).settings)
    assert len(settings) == 4


def test_a_rollout_of_other_settings_is_refused(teacher, tmp_path):
    batch = Windows(teacher).batch([0])
    made, other = store(tmp_path, teacher), store(tmp_path, teacher, steps=3)
    (key,) = made.complete([(batch, [1])], progress=False)
    with pytest.raises(FileNotFoundError, match="complete the rollouts first"):
        other.read(key)
    other.path(key).write_bytes(made.path(key).read_bytes())
    with pytest.raises(ValueError, match="was drawn under settings"):
        other.read(key)


def test_windows_must_hold_whole_chunks(teacher, tmp_path):
    windows = Windows(teacher)
    windows.frames += 1
    with pytest.raises(ValueError, match=r"see data\.window_frames"):
        store(tmp_path, teacher).complete([(windows.batch([0]), [1])], progress=False)


def brightness(pictures, frames):
    """Mean colour of every picture, on a grid of one place."""
    return pictures.float().mean((2, 3)).transpose(1, 2)[..., None, None] / 255


def source(tmp_path, teacher, windows=None, future=None, **options):
    made = store(tmp_path, teacher)
    if future is not None:
        made = RolloutStore(tmp_path, future, FramePictures(tiny_codec().autoencoder))
    target = Target(fingerprint="brightness", extract=brightness)
    windows = windows or Windows(teacher)
    options = {"pool": 5, "seed": 2, "targets": {"bright": target}, "progress": False, **options}
    return FutureSource(windows, made, **options), made


def test_samples_carry_noise_and_targets_of_one_rollout(teacher, tmp_path):
    windows = Windows(teacher)
    made, kept = source(tmp_path, teacher, windows)
    batch = made.batch(list(range(12)))
    assert set(batch.index.tolist()) <= set(range(5))
    assert len(set(batch.index.tolist())) > 2
    for row, number in enumerate(batch.index.tolist()):
        rollout = kept.read(made._keys[number])
        noise = seeded_noise(rollout.seed, {name: x[row] for name, x in batch.clean.items()})
        for name in noise:
            assert torch.equal(batch.extra[f"noise/{name}"][row], noise[name])
        expected = brightness(rollout.video[None], 0)[0]
        assert_close(batch.extra["target/bright"][row], expected, atol=1e-3, rtol=0)
        assert torch.equal(batch.clean["video"][row], windows.batch([number]).clean["video"][0])
    again = source(tmp_path, teacher)[0].batch(list(range(12)))
    assert all(torch.equal(again.extra[key], batch.extra[key]) for key in batch.extra)


def test_statistics_are_those_of_the_frames_with_a_loss_and_are_kept(teacher, tmp_path):
    made, kept = source(tmp_path, teacher)
    mean, std = made.statistics["bright"]
    all_seen = torch.cat([brightness(kept.read(key).video[None], 0)[0, :, 1:].flatten(1) for key in made._keys], 1)
    assert_close(mean, all_seen.mean(1), atol=1e-3, rtol=0)
    assert_close(std, all_seen.std(1, correction=0), atol=1e-3, rtol=0)
    assert len(list(tmp_path.rglob("statistics_*.safetensors"))) == 1
    again = source(tmp_path, teacher)[0].statistics["bright"]
    assert torch.equal(again[0], mean)


def test_the_teachers_actions_take_the_place_of_the_demonstrated_ones(teacher, tmp_path):
    windows = Windows(teacher)
    made, kept = source(tmp_path, teacher, windows, actions=True)
    batch = made.batch([0, 1])
    for row, number in enumerate(batch.index.tolist()):
        plain = windows.batch([number])
        drawn = kept.read(made._keys[number]).drawn["action"]
        assert torch.equal(batch.clean["action"][row, :, 1:], drawn[:, 1:])
        assert torch.equal(batch.clean["action"][row, :, 0], plain.clean["action"][0, :, 0])
        assert torch.equal(batch.history["action"][row], plain.history["action"][0])


def test_the_recorded_future_does_not_depend_on_the_noise(teacher, tmp_path):
    made, kept = source(tmp_path, teacher, future=TrueFuture())
    batch = made.batch([0])
    rollout = kept.read(made._keys[int(batch.index)])
    assert torch.equal(rollout.drawn["video"], batch.clean["video"][0])


def test_a_pool_needs_a_window(teacher, tmp_path):
    with pytest.raises(ValueError, match="at least 1 window; got 0"):
        source(tmp_path, teacher, pool=0)
