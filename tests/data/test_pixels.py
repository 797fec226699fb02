# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.codec import Codec
from flashwam.data.encoders import frame_encoders
from flashwam.data.pixels import PixelAutoencoder, load_autoencoder


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 3, 8, 12, 3), dtype=np.uint8)


def test_pictures_are_their_own_latents(pictures):
    codec = Codec(autoencoder=PixelAutoencoder(), actions=ActionNorm(q01=(-1.0,), q99=(1.0,), used=(0,)))
    latents = codec.video(pictures)
    assert latents.shape == (2, 3, 3, 8, 12)
    assert latents.min() >= -1
    assert latents.max() <= 1
    np.testing.assert_array_equal(codec.pictures(latents), pictures)
    # What is stored of them keeps every level but for its last half.
    kept = codec.pictures(latents.to(torch.bfloat16).float()).astype(int)
    assert np.abs(kept - pictures).max() <= 1


def test_a_codec_of_pixels_is_found_again(tmp_path, pictures):
    codec = Codec(autoencoder=PixelAutoencoder(), actions=ActionNorm(q01=(-1.0,), q99=(1.0,), used=(0,)))
    codec.save(tmp_path)
    again = Codec.load(tmp_path)
    assert isinstance(again.autoencoder, PixelAutoencoder)
    assert torch.equal(again.video(pictures), codec.video(pictures))
    encoders = frame_encoders(tmp_path / "vae")
    pixels = torch.rand(3, 2, 8, 8)
    assert torch.equal(encoders.video(pixels), pixels)


def test_each_kind_is_told_from_the_other(tmp_path):
    FrameAutoencoder(latent_channels=3, width=16).save_pretrained(tmp_path)
    assert type(load_autoencoder(tmp_path)) is FrameAutoencoder
    with pytest.raises(ValueError, match="not pixels"):
        PixelAutoencoder.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="train it first"):
        load_autoencoder(tmp_path / "nothing")
