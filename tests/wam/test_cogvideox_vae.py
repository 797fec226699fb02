# SPDX-License-Identifier: Apache-2.0
"""The video autoencoder against diffusers' own calls: scale, lengths of clips, pictures encoded alone."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from tiny_models import tiny_video_autoencoder
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.cogvideox.vae import CogVideoXVae


@pytest.fixture(scope="module")
def vae() -> CogVideoXVae:
    return CogVideoXVae(tiny_video_autoencoder())


def clip(pictures: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, pictures, 32, 48, generator=torch.Generator().manual_seed(pictures)) * 2 - 1


@pytest.mark.parametrize("pictures", [1, 9, 17])
def test_latents_are_the_scaled_means_and_decode_to_as_many_pictures(vae: CogVideoXVae, pictures: int) -> None:
    pixels = clip(pictures, batch=2)
    latents = vae.encode(pixels)
    assert latents.shape == (2, 4, (pictures - 1) // 4 + 1, 4, 6)
    with torch.no_grad():
        mean = vae.model.encode(pixels).latent_dist.mean
        expected = vae.model.decode(latents / 0.7).sample.clamp(-1, 1)
    assert_close(latents, 0.7 * mean, atol=1e-6, rtol=1e-6)
    decoded = vae.decode(latents)
    assert (decoded.shape, decoded.dtype) == ((2, pictures, 32, 48, 3), torch.uint8)
    assert (decoded.permute(0, 4, 1, 2, 3) / 127.5 - 1 - expected).abs().max() <= 0.51 / 127.5


def test_a_picture_alone_is_not_the_first_of_its_clip(vae: CogVideoXVae) -> None:
    pixels = clip(9, batch=2)
    alone = vae.encode_alone(pixels)
    assert alone.shape == (2, 4, 9, 4, 6)
    for k in range(9):
        assert_close(alone[:, :, k : k + 1], vae.encode(pixels[:, :, k : k + 1]), atol=1e-5, rtol=1e-5)
    # Its normalisations see the pictures that are encoded with it.
    assert (alone[:, :, 0] - vae.encode(pixels)[:, :, 0]).abs().max() > 1e-3
    many = vae.encode_alone(clip(1, batch=40))
    assert_close(many[39:], vae.encode_alone(clip(1, batch=40)[39:]), atol=1e-5, rtol=1e-5)


def test_weights_may_be_half_and_latents_are_float32(vae: CogVideoXVae) -> None:
    half = CogVideoXVae(tiny_video_autoencoder().bfloat16())
    latents = half.encode(clip(9))
    assert latents.dtype == torch.float32
    assert_close(latents, vae.encode(clip(9)), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("pictures", [4, 5, 12, 13])
def test_clips_that_would_decode_to_another_length_are_refused(vae: CogVideoXVae, pictures: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 8 pictures.*got {pictures}"):
        vae.encode(clip(pictures))
    with torch.no_grad():
        latents = vae.model.encode(clip(pictures)).latent_dist.mean
        assert vae.model.decode(latents).sample.shape[2] != pictures
    with pytest.raises(ValueError, match="odd number of latent frames, got 2"):
        vae.decode(torch.zeros(1, 4, 2, 4, 6))
    with pytest.raises(ValueError, match=r"multiples of 8, got \(32, 44\)"):
        vae.encode(clip(1)[..., :44])


def test_the_released_autoencoders_sizes() -> None:
    with torch.device("meta"):
        released = CogVideoXVae(AutoencoderKLCogVideoX(scaling_factor=0.7))
    assert (released.channels, released.factor) == (16, 8)
    assert released.encode(torch.empty(1, 3, 9, 256, 256, device="meta")).shape == (1, 16, 3, 32, 32)
    with pytest.raises(ValueError, match=r"version 1\.5"):
        CogVideoXVae(tiny_video_autoencoder(invert_scale_latents=True))


def test_folders_are_read_strictly(vae: CogVideoXVae, tmp_path: Path) -> None:
    vae.model.save_pretrained(tmp_path)
    again = CogVideoXVae.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(again.encode(clip(9)), vae.encode(clip(9)))
    with pytest.raises(FileNotFoundError, match="expected vae/"):
        CogVideoXVae.from_pretrained(tmp_path / "none")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan"}))
    with pytest.raises(ValueError, match="must hold an AutoencoderKLCogVideoX, got 'AutoencoderKLWan'"):
        CogVideoXVae.from_pretrained(tmp_path)
