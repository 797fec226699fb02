# SPDX-License-Identifier: Apache-2.0
"""Foresight policies around tiny backbones of both families."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import TINY_FORESIGHT, tiny_codec, tiny_joint_wam, tiny_wam

from flashwam.data.pictures import FramePictures
from flashwam.foresight.policy import ForesightPolicy
from flashwam.foresight.scene import SceneEncoder


@pytest.fixture(params=["lingbot_va", "cogvideox"])
def make_policy(request: pytest.FixtureRequest) -> Callable[..., ForesightPolicy]:
    """Builds a policy whose every trained parameter is random; keywords replace those of TINY_FORESIGHT, and heads of 32 make
    the backbone's layers multiples of 16."""

    def make(*, heads_of_32: bool = False, **changes: Any) -> ForesightPolicy:
        size = {"num_layers": 3, "attention_head_dim": 32} if heads_of_32 else {"num_layers": 3}
        backbone = tiny_wam(**size) if request.param == "lingbot_va" else tiny_joint_wam()
        blocks = [0, 1] if request.param == "lingbot_va" else [0]
        with torch.random.fork_rng():
            torch.manual_seed(1)
            providers = {
                "semantic": SceneEncoder(labels="colours", classes=8, width=6),
                "geometric": SceneEncoder(labels="motion", classes=0, width=5),
            }
            decoder = FramePictures(tiny_codec().autoencoder)
            policy = ForesightPolicy(backbone, providers, decoder, **{**TINY_FORESIGHT, "blocks": blocks, **changes})
            with torch.no_grad():
                for p in policy.parameters():
                    p.copy_(torch.randn(p.shape) * (0.3 if p.ndim < 2 else p.shape[-1] ** -0.5))
            for module in policy.decouplers.values():
                module.std.fill_(0.02)
        return policy

    return make
