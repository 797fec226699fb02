# SPDX-License-Identifier: Apache-2.0
"""Measures of decoded video: the pictures are those of a rollout, after the past that a chunk was drawn under."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny_video_autoencoder
from tiny_released import save_released

from flashwam.core.batch import Batch
from flashwam.evaluation.decoded import DecodedDraws
from flashwam.evaluation.pictures import find_pictures
from flashwam.wam.cogvideox.vae import CogVideoXVae

B, D, F, K = 3, 2, 2, 2


def windows(channels=3, size=2, *, frames=F * K):
    generator = torch.Generator().manual_seed(0)
    video = {"video": torch.randn(B, channels, frames, size, size, generator=generator)}
    given = torch.zeros(B, frames, dtype=torch.bool)
    given[:, 0] = True
    text = torch.zeros(B, 1, 1)
    real = torch.ones(B, 1, frames, 1, 1, dtype=torch.bool)
    return Batch(
        clean=video,
        history=video,
        mask={"video": real},
        given=given,
        text=text,
        null_text=text[0],
        index=torch.arange(B),
    )


def draws(batch, change=lambda x: x, *, chunk=F):
    """Draws of a window alike, so that the first one counts."""
    video = batch.clean["video"].repeat_interleave(D, 0)
    return [{"video": change(part)} for part in video.split(chunk, 2)]


def grey(latents):
    """A picture of each latent frame, 100 grey levels a unit; without a past."""
    return (100 + 10 * latents.movedim(1, -1)).round().clamp(0, 255).byte().numpy()


def decoded(batch, reference, *, pictures=grey, alone=False):
    return DecodedDraws(pictures=pictures, batch=batch, reference=reference, draws=D, alone=alone)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return find_pictures([save_released(tmp_path_factory.mktemp("wan") / "base", ("",))], torch.device("cpu"))


def test_a_chunk_is_decoded_after_its_past_and_not_as_if_a_clip_began_with_it(wan):
    batch = windows(48)
    whole = wan(batch.clean["video"])
    # A picture of the first latent frame, four of every other one.
    assert whole.shape[1] == 1 + 4 * (F * K - 1)
    frames = decoded(batch, draws(batch), pictures=wan).frames(draws(batch))
    assert [len(each) for each in frames] == [4, 8, 4]
    for window, each in enumerate(frames):
        # Windows are looked at in one chunk each, in turns; what is given is not looked at.
        expected = whole[window, 1:5] if window % K == 0 else whole[window, 5:]
        np.testing.assert_array_equal(each, expected)
    alone = wan(batch.clean["video"][1:2, :, -1:])[0, 0].astype(float)
    assert np.abs(alone - frames[1][-1]).mean() > 5


def test_the_past_is_the_recorded_one_whatever_was_drawn_before(wan):
    batch = windows(48)
    spoiled = draws(batch)
    spoiled[0] = {"video": spoiled[0]["video"] + 1}
    found = decoded(batch, spoiled, pictures=wan).measures(draws(batch))
    # The second window is looked at in its second chunk, which both drew alike.
    ours, theirs = (decoded(batch, spoiled, pictures=wan).frames(each) for each in (draws(batch), spoiled))
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert not np.array_equal(ours[0], theirs[0])
    assert found["video_decoded_error_teacher"] > 0
    assert found["video_decoded_error_expert"] == 0


def test_a_model_that_begins_at_the_observation_begins_a_clip_there():
    vae = CogVideoXVae(tiny_video_autoencoder())
    batch = windows(4, frames=3)
    observed = batch.clean["video"].clone()
    observed[:, :, 0] += 1
    batch = replace(batch, history={"video": observed})

    def spoil(x):
        return torch.cat([x[:, :, :1] + 9, x[:, :, 1:]], 2)

    one = decoded(batch, draws(batch, chunk=3), pictures=lambda z: vae.decode(z).numpy(), alone=True)
    expected = vae.decode(observed).numpy()
    assert expected.shape[1] == 9
    np.testing.assert_array_equal(np.stack(one.frames(draws(batch, spoil, chunk=3))), expected[:, 1:])
    assert one.measures(draws(batch, spoil, chunk=3))["video_decoded_error_teacher"] == 0


def test_errors_are_grey_levels_and_sharpness_is_over_all_frames_of_the_chunk():
    batch = windows()
    off = decoded(batch, draws(batch)).measures(draws(batch, lambda x: x + 0.7))
    assert off["video_decoded_error_teacher"] == pytest.approx(7)
    assert off["video_decoded_error_expert"] == pytest.approx(7)
    assert off["video_decoded_sharpness_ratio"] == pytest.approx(1)
    blurred = decoded(batch, draws(batch, lambda x: 4 * x)).measures(draws(batch, lambda x: 2 * x))
    assert blurred["video_decoded_sharpness_ratio"] == pytest.approx(0.5, rel=0.02)

    def even_at_first(x):
        return torch.cat([0 * x[:, :, :1], x[:, :, 1:]], 2)

    # What is given of the first chunks is not looked at; of the second window's chunk a frame of two is even.
    mixed = decoded(batch, draws(batch))
    looked = [each.astype(float) for each in mixed.frames(draws(batch))]
    left, whole = (
        sum(sum(np.abs(np.diff(each, axis=axis)).sum() for each in frames) for axis in (1, 2))
        for frames in ([looked[0], looked[1][1:], looked[2]], looked)
    )
    assert mixed.measures(draws(batch, even_at_first))["video_decoded_sharpness_ratio"] == pytest.approx(left / whole)


def test_what_is_given_and_what_is_no_window_any_more_count_for_nothing():
    batch = windows()
    real = batch.mask["video"].clone()
    real[:, :, 1:] = False
    beyond = replace(batch, mask={"video": real})
    assert decoded(beyond, draws(batch)).measures(draws(batch, lambda x: x + 9)) == {}


def test_even_pictures_have_no_sharpness():
    batch = windows()
    even = draws(batch, lambda x: 0 * x)
    assert "video_decoded_sharpness_ratio" not in decoded(batch, even).measures(draws(batch))


def test_no_more_is_decoded_than_told():
    shown = []

    def counted(latents):
        shown.append(latents.shape[:3:2])
        return grey(latents)

    batch = windows()
    one = DecodedDraws(pictures=counted, batch=batch, reference=draws(batch), draws=D, alone=False, windows=2)
    one.measures(draws(batch))
    # Of three sides, a window's first chunk and another's second after its past.
    assert sorted(shown) == [(1, F)] * 3 + [(1, 2 * F)] * 3
    shown.clear()
    one.measures(draws(batch))
    # What does not change is not decoded again.
    assert sorted(shown) == [(1, F), (1, 2 * F)]


def test_models_that_draw_no_video_have_no_decoded_measures():
    batch = windows()
    assert decoded(batch, [{"action": torch.zeros(1)}]).measures([{"action": torch.zeros(1)}]) == {}
