# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from flashwam.core.batch import Batch
from flashwam.evaluation.open_loop import open_loop_measures

B, D, F, K = 3, 4, 2, 2


def windows():
    generator = torch.Generator().manual_seed(0)
    clean = {
        "video": torch.randn(B, 2, K * F, 2, 2, generator=generator),
        "action": torch.randn(B, 3, K * F, 4, 1, generator=generator),
    }
    given = torch.zeros(B, K * F, dtype=torch.bool)
    given[:, 0] = True
    mask = {name: (~given)[:, None, :, None, None].expand_as(x) for name, x in clean.items()}
    text = torch.zeros(B, 1, 1)
    return Batch(
        clean=clean, history=clean, mask=mask, given=given, text=text, null_text=text[0], index=torch.arange(B)
    )


def draws(batch, change):
    chunks = []
    for k in range(K):
        part = {n: x[:, :, k * F : (k + 1) * F].repeat_interleave(D, 0) for n, x in batch.clean.items()}
        chunks.append({name: change(x, torch.Generator().manual_seed(k)) for name, x in part.items()})
    return chunks


def noisy(scale, shift=0.0):
    return lambda x, generator: x + shift + scale * torch.randn(x.shape, generator=generator)


def test_equal_draws_have_no_error_and_equal_spread():
    batch = windows()
    drawn = draws(batch, noisy(0.5))
    measures = open_loop_measures(drawn, drawn, batch, draws=D)
    for name in ("video", "action"):
        assert measures[f"{name}_error_teacher"] == 0
        assert measures[f"{name}_variance_ratio"] == pytest.approx(1)
        assert measures[f"{name}_error_expert"] > 0.1


def test_a_constant_offset_is_its_square_and_leaves_the_spread():
    batch = windows()
    measures = open_loop_measures(draws(batch, noisy(0.5, 0.3)), draws(batch, noisy(0.5)), batch, draws=D)
    assert measures["action_error_teacher"] == pytest.approx(0.09, abs=1e-6)
    assert measures["action_variance_ratio"] == pytest.approx(1, abs=1e-5)


def test_collapse_shows_as_no_spread_and_half_amplitude_as_a_quarter():
    batch = windows()
    reference = draws(batch, noisy(0.5))
    collapsed = open_loop_measures(draws(batch, noisy(0.0)), reference, batch, draws=D)
    halved = open_loop_measures(draws(batch, noisy(0.25)), reference, batch, draws=D)
    assert collapsed["action_variance_ratio"] == 0
    assert collapsed["action_error_expert"] == 0
    assert halved["action_variance_ratio"] == pytest.approx(0.25, abs=1e-5)


def test_given_frames_count_for_nothing():
    batch = windows()
    reference = draws(batch, noisy(0.5))
    spoiled = [{name: x.clone() for name, x in chunk.items()} for chunk in reference]
    for x in spoiled[0].values():
        x[:, :, 0] = 1e6
    assert open_loop_measures(spoiled, reference, batch, draws=D)["video_error_teacher"] == 0


def test_blur_lowers_sharpness():
    batch = windows()
    reference = draws(batch, noisy(1.0))
    blurred = [{name: 0.5 * x for name, x in chunk.items()} for chunk in reference]
    decode = {"video": lambda z: z.transpose(1, 2)}
    measures = open_loop_measures(blurred, reference, batch, draws=D, decoders=decode)
    assert measures["video_sharpness_ratio"] == pytest.approx(0.5)
