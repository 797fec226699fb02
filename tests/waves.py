# SPDX-License-Identifier: Apache-2.0
"""A tiny LingBot-VA and data that it learns in seconds: moving waves and the speed that moves them."""

import torch
from tiny_models import tiny_wam

from flashwam.core.batch import Batch
from flashwam.core.streams import StreamSpec
from flashwam.recipe.sections import LoopConfig
from flashwam.wam.lingbot_va import LingBotVA

FRAMES = 4
STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm", "guidance": [1, 3]}),
    "action": StreamSpec.from_config("action", {"shift": 1.0, "regulariser": 0.2}),
}


def make(seed: int = 0) -> LingBotVA:
    return tiny_wam(
        seed=seed,
        latent_size=(4, 4),
        actions_per_frame=2,
        window_chunks=6,
        patch_size=(1, 2, 2),
        text_dim=8,
        ffn_dim=64,
        num_layers=2,
    )


class Waves:
    """A moving wave and the speed that moves it."""

    def batch(self, indices):
        rows = []
        for i in indices:
            generator = torch.Generator().manual_seed(i)
            speed = torch.rand((), generator=generator) * 2 - 1
            phase = speed * torch.arange(FRAMES)[:, None, None] + torch.arange(4)[None, :, None] * 0.8
            rows.append((torch.sin(phase).expand(FRAMES, 4, 4).expand(3, -1, -1, -1), speed.expand(4, FRAMES, 2, 1)))
        video, action = (torch.stack(part).contiguous() for part in zip(*rows, strict=True))
        given = torch.zeros(len(rows), FRAMES, dtype=torch.bool)
        given[:, 0] = True
        clean = {"video": video, "action": action.masked_fill(given[:, None, :, None, None], 0.0)}
        mask = {name: torch.ones(len(rows), 1, FRAMES, 1, 1, dtype=torch.bool) for name in clean}
        text = torch.ones(len(rows), 2, 8)
        return Batch(
            clean=clean,
            history=clean,
            mask=mask,
            given=given,
            text=text,
            null_text=torch.zeros(2, 8),
            index=torch.tensor(indices),
        )


def loop(method: str, **changes) -> LoopConfig:
    values = {"steps": 6, "batch_size": 8, "lr": 3e-3, "warmup_steps": 2, "save_every": 3, "log_every": 1}
    return LoopConfig(method=method, **(values | changes))


def velocity(model, **changes) -> dict[str, torch.Tensor]:
    """A model's output for one fixed input."""
    data = Waves().batch([0, 1])
    generator = torch.Generator().manual_seed(5)
    noisy = {name: torch.randn(x.shape, generator=generator) for name, x in data.clean.items()}
    sigma = {name: torch.rand(x.shape[0], x.shape[2], generator=generator) for name, x in data.clean.items()}
    return model(noisy, sigma, data.history, {"text": data.text, **changes})


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Tells whether two mappings of tensors are equal to the bit."""
    return set(first) == set(second) and all(torch.equal(first[key], second[key]) for key in first)
