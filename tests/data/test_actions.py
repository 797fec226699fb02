# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flashwam.data.actions import ActionNorm

ROBOTWIN_Q01 = [-0.06172713458538055, -3.6716461181640625e-05, -0.08783501386642456, -1, -1, -1, -1]
ROBOTWIN_Q01 += [-0.3547105032205582, -1.3113021850585938e-06, -0.11975435614585876, -1, -1, -1, -1] + [0] * 16
ROBOTWIN_Q99 = [0.3462600058317184, 0.39966784834861746, 0.14745532035827624, 1, 1, 1, 1]
ROBOTWIN_Q99 += [0.034201726913452024, 0.39142737388610793, 0.1792279863357542, 1, 1, 1, 1] + [0] * 14 + [1, 1]
ROBOTWIN_USED = (*range(7), 28, *range(7, 14), 29)


def test_golden_round_trip(golden_dir):
    golden = {k: v for k, v in load_file(golden_dir / "lingbot_va.safetensors").items() if "action_norm" in k}
    raw, pre, post = (golden[f"action_norm/{k}"] for k in ("raw", "pre", "post"))
    norm = ActionNorm(q01=tuple(ROBOTWIN_Q01), q99=tuple(ROBOTWIN_Q99), used=ROBOTWIN_USED, clip=None)
    mine = norm.normalise(raw)
    used = list(ROBOTWIN_USED)
    assert torch.allclose(mine[used], pre[0][used], atol=1e-6)
    assert torch.allclose(norm.denormalise(pre[0]), post, atol=1e-6)


def test_unused_channels_are_zero_and_masked():
    norm = ActionNorm(q01=(0.0, -1.0, -2.0), q99=(0.0, 1.0, 2.0), used=(2, 1))
    out = norm.normalise(torch.rand(2, 5, 4))
    assert not out[0].any()
    assert norm.mask().flatten().tolist() == [False, True, True]


def test_round_trip_within_the_quantiles():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, size=(1000, 4))
    norm = ActionNorm.fit(actions)
    inside = torch.rand(3, 4, 6, 5, dtype=torch.float64) * 1.8 - 0.9
    assert torch.allclose(norm.denormalise(norm.normalise(inside)), inside, atol=1e-9)
    assert norm.normalise(inside).shape == (3, 4, 6, 5, 1)


def test_quantiles_map_to_plus_and_minus_one():
    actions = np.linspace(-3, 5, 1001)[:, None]
    norm = ActionNorm.fit(actions)
    assert norm.normalise(torch.tensor([[[norm.q01[0]]]])).item() == pytest.approx(-1, abs=1e-5)
    assert norm.normalise(torch.tensor([[[norm.q99[0]]]])).item() == pytest.approx(1, abs=1e-5)


def test_clip_is_a_flag():
    actions = np.linspace(-1, 1, 101)[:, None]
    far = torch.full((1, 1, 1), 100.0)
    assert ActionNorm.fit(actions).normalise(far).item() == 1.5
    assert ActionNorm.fit(actions, clip=None).normalise(far).item() > 50


def test_constant_channel_stays_calm():
    norm = ActionNorm.fit(np.ones((50, 1)))
    assert norm.normalise(torch.ones(1, 1, 1)).abs().item() < 1e-4
    assert norm.normalise(torch.full((1, 1, 1), 1.001)).abs().item() < 0.05


def test_survives_json():
    norm = ActionNorm.fit(np.random.default_rng(0).normal(size=(50, 3)))
    assert ActionNorm.from_dict(json.loads(json.dumps(norm.to_dict()))) == norm


def test_refuses_wrong_shapes_and_channels():
    with pytest.raises(ValueError, match="distinct channels"):
        ActionNorm(q01=(0.0,), q99=(1.0,), used=(0, 0))
    norm = ActionNorm(q01=(0.0,), q99=(1.0,), used=(0,))
    with pytest.raises(ValueError, match="expected 1 controls"):
        norm.normalise(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="expected"):
        norm.denormalise(torch.zeros(2, 3, 4, 1))


def taught(rows, norm):
    """Controls [T, U] after their way through the model's range and back."""
    controls = torch.from_numpy(rows.astype(np.float32)).T[:, :, None]
    return norm.denormalise(norm.normalise(controls))[..., 0].T.numpy()


@pytest.mark.parametrize("clip", [None, 0.5, 1.0, 1.5])
@pytest.mark.parametrize(
    ("rest", "rare", "count"),
    [
        (0.0, 0.25, 6),
        (1.0, -1.0, 9),
        (0.0, -3.0, 1),
        (500.0, 900.0, 9),
        (0.0, 0.004, 5),
        (0.25, (0.5, -0.75), 4),
    ],
)
def test_a_control_that_seldom_leaves_one_value_is_taught_as_it_is(clip, rest, rare, count):
    """Less than 1 % of 1000 rows on either side, exactly at rest otherwise or trembling a little."""
    random = np.random.default_rng(0)
    for tremble in (0.0, 0.002):
        rows = np.stack([random.normal(size=1000), np.full(1000, rest)], 1)
        size = np.max(np.abs(np.atleast_1d(rare) - rest))
        rows[:, 1] += random.uniform(-1, 1, 1000) * tremble * size
        for number, value in enumerate(np.atleast_1d(rare)):
            rows[100 * number : 100 * number + count, 1] = value
        norm = ActionNorm.fit(rows, clip=clip, least_range=1e-3)
        error = np.abs(taught(rows, norm)[:, 1] - rows[:, 1]).max()
        assert error < 0.01 * np.ptp(rows[:, 1])
        low, high = np.quantile(rows[:, 0], [0.01, 0.99])
        assert np.allclose((norm.q01[0], norm.q99[0]), (low, high))


def test_a_constant_control_keeps_its_small_range_and_tails_do_not_widen_another():
    random = np.random.default_rng(1)
    rows = np.stack([np.full(5000, 0.3), random.laplace(size=5000), random.standard_t(4, size=5000)], 1)
    norm = ActionNorm.fit(rows, least_range=1e-3)
    assert (norm.q99[0] - norm.q01[0]) == pytest.approx(1e-3)
    for control in (1, 2):
        assert norm.q99[control] == pytest.approx(np.quantile(rows[:, control], 0.99))


@pytest.mark.parametrize("count", range(1, 30, 4))
@pytest.mark.parametrize("total", [60, 1151, 2000])
def test_a_gripper_that_closes_about_as_seldom_as_the_quantile_is_taught_as_it_is(count, total):
    """A quantile whose rank lies between open and closed is yet no value between them."""
    rows = np.ones((total, 2))
    rows[:count, 0] = -1
    rows[-count:, 1] = 5
    norm = ActionNorm.fit(rows, least_range=1e-3)
    assert np.abs(taught(rows, norm) - rows).max() < 0.01
