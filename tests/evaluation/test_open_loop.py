# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_joint_wam, tiny_wam
from tiny_windows import Windows

from flashwam.core.batch import Batch
from flashwam.core.streams import StreamSpec
from flashwam.evaluation.open_loop import chunk_draws, open_loop_measures
from flashwam.sampling import samplers_for

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


def test_a_stream_without_an_element_that_counts_is_not_measured():
    batch = windows()
    batch.mask["action"] = torch.zeros_like(batch.mask["action"])
    drawn = draws(batch, noisy(0.5))
    assert {key.partition("_")[0] for key in open_loop_measures(drawn, drawn, batch, draws=D)} == {"video"}


@pytest.mark.parametrize("make", [tiny_joint_wam, tiny_wam])
def test_draws_begin_at_what_was_observed_and_not_at_a_slice_of_a_clip(make):
    """A clip's first picture encoded by itself, as at rollout, is another latent than the first of the whole clip."""
    wam = make().eval()
    held = Windows(wam).batch([0, 1])
    clean = {name: x.clone() for name, x in held.clean.items()}
    clean["video"][:, :, 0] += 3
    sliced = replace(held, clean=clean)
    samplers = samplers_for(
        {name: StreamSpec.from_config(name, {"shift": 1.0}) for name in wam.streams},
        steps={"video": 1, "action": 1},
        teacher=True,
    )
    ours, theirs = (chunk_draws(wam, samplers, batch, draws=2, chunks=1) for batch in (held, sliced))
    for name in wam.streams:
        assert torch.equal(ours[0][name], theirs[0][name])
