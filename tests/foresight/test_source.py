# SPDX-License-Identifier: Apache-2.0
"""Training samples of the foresight method: one rollout's noise, actions and what vision models see in its video."""

import weakref

import pytest
import torch
from tiny_models import tiny_codec, tiny_joint_wam, tiny_wam
from tiny_windows import Windows
from torch.testing import assert_close

from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.data.pictures import FramePictures
from flashwam.distillation.futures import TeacherFuture, seeded_noise
from flashwam.distillation.rollouts import Extras, RolloutStore
from flashwam.foresight.drawn_pictures import PICTURES
from flashwam.foresight.source import FutureSource, Target
from flashwam.foresight.true_future import TrueFuture
from flashwam.sampling import StreamSampler

FAMILIES = {"lingbot_va": tiny_wam, "cogvideox": tiny_joint_wam}


@pytest.fixture(params=FAMILIES)
def teacher(request):
    return FAMILIES[request.param]().eval()


def brightness(pictures, frames):
    """Mean colour of every picture, on a grid of one place."""
    return pictures.float().mean((2, 3)).transpose(1, 2)[..., None, None] / 255


def source(tmp_path, teacher, windows=None, future=None, **options):
    one = StreamSampler(schedule=NoiseSchedule(2.0), consistency=Linear(), steps=2)
    future = future or TeacherFuture(teacher, {"video": one, "action": one})
    decoder = FramePictures(tiny_codec().autoencoder)
    extras = Extras(fingerprint="tiny", make=lambda _, drawn: {PICTURES: decoder.pictures(drawn["video"])})
    made = RolloutStore(tmp_path, future, extras=extras, batch_size=2)
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
        noise = seeded_noise(made._seeds[number], {name: x[row] for name, x in batch.clean.items()})
        for name in noise:
            assert torch.equal(batch.extra[f"noise/{name}"][row], noise[name])
        expected = brightness(rollout.extra[PICTURES][None], 0)[0]
        assert_close(batch.extra["target/bright"][row], expected, atol=1e-3, rtol=0)
        assert torch.equal(batch.clean["video"][row], windows.batch([number]).clean["video"][0])
    again = source(tmp_path, teacher)[0].batch(list(range(12)))
    assert all(torch.equal(again.extra[key], batch.extra[key]) for key in batch.extra)


def test_statistics_are_those_of_the_frames_with_a_loss_and_are_kept(teacher, tmp_path):
    made, kept = source(tmp_path, teacher)
    mean, std = made.statistics["bright"]
    all_seen = torch.cat(
        [brightness(kept.read(key).extra[PICTURES][None], 0)[0, :, 1:].flatten(1) for key in made._keys], 1
    )
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
    assert torch.equal(rollout.drawn["video"], batch.clean["video"][0].half().float())


def test_a_pool_needs_a_window(teacher, tmp_path):
    with pytest.raises(ValueError, match="at least 1 window; got 0"):
        source(tmp_path, teacher, pool=0)


def test_windows_are_let_go_of_while_rollouts_are_drawn(teacher, tmp_path):
    held = []

    class Watched(Windows):
        def batch(self, indices):
            batch = super().batch(indices)
            held.append(weakref.ref(batch.clean["video"]))
            return batch

    class Counting(TrueFuture):
        most = 0

        def draw(self, batch, noise):
            self.most = max(self.most, sum(part() is not None for part in held))
            return super().draw(batch, noise)

    future = Counting()
    source(tmp_path, teacher, Watched(teacher), future, pool=12)
    assert 1 <= future.most <= 2
