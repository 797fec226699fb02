# SPDX-License-Identifier: Apache-2.0
"""The pictures that vision models look at are those of the decoder at hand, not of one that was there before."""

import pytest
import torch
from foresight_toys import TOLD, Dye, Observations, World, toy_policy
from tiny_models import tiny_codec, tiny_video_autoencoder

from flashwam.core.streams import StreamSpec
from flashwam.data.pictures import FramePictures
from flashwam.distillation.setup import Setup
from flashwam.foresight.method import Foresight
from flashwam.wam.cogvideox.pictures import CogVideoXPictures
from flashwam.wam.cogvideox.vae import CogVideoXVae

STREAMS = {name: StreamSpec.from_config(name, {"shift": 2.0}) for name in World.layout.shapes}


def frames(seed=0):
    return FramePictures(tiny_codec(seed=seed).autoencoder)


def clips(**changes):
    return CogVideoXPictures(CogVideoXVae(tiny_video_autoencoder(**changes)))


def test_a_decoder_is_known_by_its_weights_and_by_how_it_scales():
    assert frames().fingerprint() == frames().fingerprint()
    assert clips().fingerprint() == clips().fingerprint()
    assert clips(scaling_factor=0.6).fingerprint() != clips().fingerprint()
    told = {Dye().fingerprint(), frames().fingerprint(), frames(seed=1).fingerprint(), clips().fingerprint()}
    assert len(told) == 4
    other = clips()
    with torch.no_grad():
        next(other.vae.model.decoder.parameters()).mul_(1.1)
    assert other.fingerprint() != clips().fingerprint()


@pytest.mark.parametrize("targets", ["same_seed", "ground_truth"])
def test_with_another_decoder_the_targets_are_made_anew(tmp_path, targets):
    class Faded(Dye):
        def __init__(self, scale):
            super().__init__()
            self.register_buffer("scale", torch.tensor(scale))

        def pictures(self, latents):
            return (super().pictures(latents).float() * self.scale).to(torch.uint8)

    def seen(scale):
        teacher = World()
        policy = toy_policy(teacher)
        policy._frozen.decoder = Faded(scale)
        method = Foresight(STREAMS, policy, teacher=teacher, targets=targets, pool=4, teacher_streams=TOLD)
        made = method.source(Observations(), Setup(data=tmp_path, streams=STREAMS, seed=0))
        return made.of_pool([0, 1]).extra["target/colour"]

    bright, dark = seen(1.0), seen(0.5)
    assert not torch.allclose(bright, dark)
    assert torch.equal(seen(1.0), bright)
    assert len(list((tmp_path / "rollouts").glob("*/settings.json"))) == 2
