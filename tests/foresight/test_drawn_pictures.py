# SPDX-License-Identifier: Apache-2.0
"""Chunks that were drawn under the recorded past are decoded after that past."""

import pytest
import torch
from tiny_models import tiny_codec

from flashwam.data.pictures import FramePictures, PictureDecoder
from flashwam.foresight.drawn_pictures import drawn_pictures, pictures_of_chunks


class Causal(PictureDecoder):
    """Of the first latent frame one picture, of every other one three; each shows the sum of all frames so far."""

    def pictures(self, latents):
        so_far = latents.mean((1, 3, 4)).cumsum(1)
        count = torch.tensor([1] + [3] * (latents.shape[2] - 1))
        shown = so_far.repeat_interleave(count, 1)[..., None, None, None]
        return shown.expand(-1, -1, 2, 2, 3).to(torch.uint8)

    def save(self, folder):
        raise AssertionError(folder)

    @classmethod
    def load(cls, folder):
        raise AssertionError(folder)

    @property
    def parameter_count(self):
        return 0


def clip(*frames):
    """Latents [1, 2, F, 1, 1] with a value a frame."""
    return torch.tensor(frames, dtype=torch.float32).view(1, 1, -1, 1, 1).expand(1, 2, -1, 1, 1)


def values(pictures):
    return pictures[0, :, 0, 0, 0].tolist()


def test_each_chunk_is_decoded_after_what_was_recorded():
    drawn, recorded = clip(1, 2, 30, 40, 100, 110), clip(5, 6, 7, 8, 9, 10)
    shown = pictures_of_chunks(Causal(), drawn, recorded, chunk_frames=2)
    first, second, third = [1, *[3] * 3], [*[11 + 30] * 3, *[11 + 70] * 3], [*[26 + 100] * 3, *[26 + 210] * 3]
    assert values(shown) == first + second + third
    assert shown.shape[1] == 1 + 3 * 5


def test_one_chunk_is_a_clip_of_its_own():
    drawn, recorded = clip(1, 2, 3), clip(9, 9, 9)
    shown = pictures_of_chunks(Causal(), drawn, recorded, chunk_frames=3)
    assert torch.equal(shown, Causal().pictures(drawn))


def test_frames_that_are_decoded_alone_need_no_past():
    decoder = FramePictures(tiny_codec().autoencoder)
    drawn = torch.randn(2, decoder.autoencoder.latent_channels, 4, 2, 2)
    shown = pictures_of_chunks(decoder, drawn, torch.zeros_like(drawn), chunk_frames=2)
    assert torch.equal(shown, decoder.pictures(drawn))


@pytest.mark.parametrize(("frames", "same"), [(2, True), (4, False)])
def test_only_pictures_that_differ_are_made_anew(frames, same):
    """Pictures of one chunk, and those by a decoder of single frames, are still of use."""
    causal, single = Causal(), FramePictures(tiny_codec().autoencoder)
    made = drawn_pictures(causal, frames=frames, chunk_frames=2)
    assert (made.fingerprint == causal.fingerprint()) == same
    assert drawn_pictures(single, frames=frames, chunk_frames=2).fingerprint == single.fingerprint()
