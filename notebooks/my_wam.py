# SPDX-License-Identifier: Apache-2.0
"""A world-action model of one's own: two small networks, a source of samples in closed form, and its own score.

A point must pass a post in front of it on one side or the other; a coin that nothing shows decides which. Frame 0 of
the video is where it stands, frame 1 where it goes; the action is the push that takes it there.
"""

import torch
from torch import Tensor, nn

from flashwam import WorldActionModel
from flashwam.core.batch import Batch
from flashwam.wam import Layout


class MyWAM(WorldActionModel):
    layout = Layout(streams=("video", "action"), shapes={"video": (2, 1, 1), "action": (2, 1, 1)}, chunk_frames=2)

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"video": mlp(2 + 1 + 2, width), "action": mlp(2 + 1 + 4, width)})

    def velocity(self, noisy, sigma, clean, context):
        out, seen = {}, clean["video"]
        for name, x in noisy.items():
            # A frame of the video sees the noisy one before it, a push sees the clean video on both its sides.
            told = x.roll(1, 2) if name == "video" else torch.cat([seen.roll(1, 2), seen], 1)[:, :, -x.shape[2] :]
            level = sigma[name][:, None, :, None, None]
            data = self.net[name](torch.cat([x, level, told], 1).movedim(1, -1)).movedim(-1, 1)
            out[name] = (x - data) / level.clamp(min=0.05)
        return out


def mlp(features: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))


class TwoWays:
    """Samples by number: sample i is the same whenever it is asked for."""

    def batch(self, indices: list[int]) -> Batch:
        i = torch.as_tensor(indices, dtype=torch.float64)
        start = torch.stack([2 * (i * 0.6180339887498949).frac() - 1, -torch.ones_like(i)], 1)
        side = torch.where((i * 0.7548776662466927).frac() < 0.5, -1.0, 1.0)
        push = torch.stack([side, torch.ones_like(i)], 1)
        clean = {
            "video": torch.stack([start, start + push], 2)[..., None, None].float(),
            "action": torch.stack([torch.zeros_like(push), push], 2)[..., None, None].float(),
        }
        everything = torch.ones(len(i), 1, 2, 1, 1, dtype=torch.bool)
        return Batch(
            clean=clean,
            history=clean,
            mask=dict.fromkeys(clean, everything),
            given=torch.tensor([[True, False]]).expand(len(i), 2),
            text=torch.zeros(len(i), 1, 1),
            null_text=torch.zeros(1, 1),
            index=torch.as_tensor(indices),
        )


def sideways(drawn: dict[str, Tensor]) -> Tensor:
    """How far each drawn push goes to a side, [B]: -1 and 1 are the two ways, 0 runs into the post between them."""
    return drawn["action"][:, 0, 1, 0, 0]
