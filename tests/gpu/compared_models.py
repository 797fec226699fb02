# SPDX-License-Identifier: Apache-2.0
"""The models that are compared: one small model of every kind, with weights under which no part of it is without effect."""

from collections.abc import Callable
from typing import Any

import policy_toys
import torch
from papers import need
from tiny_models import tiny_codec, tiny_joint_wam, tiny_wam
from torch import nn

from flashwam.data.pictures import FramePictures
from flashwam.wam import WorldActionModel


def shaken(model: nn.Module, seed: int = 1) -> Any:
    """The model in evaluation mode, every weight drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            scale = 0.3 if value.ndim < 2 else value.shape[-1] ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return model.eval()


def lingbot(**options: Any) -> WorldActionModel:
    """Draws the video, then the actions; two chunks are remembered."""
    return shaken(tiny_wam(attention_head_dim=32, num_layers=2, **options))


def foresight(*, trained: str = "decouplers") -> Any:
    """Looks into the first block of a tiny LingBot-VA, for one vision model."""
    need("foresight")
    from flashwam.foresight.policy import ForesightPolicy
    from flashwam.foresight.scene import SceneEncoder

    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = ForesightPolicy(
            tiny_wam(num_layers=2),
            {"geometric": SceneEncoder(labels="motion", classes=0, width=5)},
            FramePictures(tiny_codec().autoencoder),
            trained=trained,
            text_width=32,
            blocks=[0],
            grid=[4, 4],
            decoupler={"width": 8, "blocks": 1, "heads": 2, "positions": True, "dropout": 0.0},
            resampler={"width": 8, "queries": 2, "depth": 1, "heads": 2, "head_dim": 4},
            expert={"width": 8, "encoder": 1, "decoder": 1, "heads": 2, "dropout": 0.0},
        )
    return shaken(policy)


MODELS: dict[str, Callable[[], WorldActionModel]] = {
    "lingbot_va": lingbot,
    "cogvideox": lambda: shaken(tiny_joint_wam()),
    "foresight": foresight,
    "fusion": policy_toys.policy,
}
