# SPDX-License-Identifier: Apache-2.0
"""A world-action model of one's own: two small networks, a source of samples in closed form, and its own score.

A point must pass a post in front of it on one side or the other; a coin that nothing shows decides which. Frame 0 of
the video is where it stands, frame 1 where it goes; the action is the push that takes it there.
"""

from math import prod

import torch
from torch import Tensor, nn

from flashwam import WorldActionModel
from flashwam.core.batch import Batch
from flashwam.wam import Layout


class MyWAM(WorldActionModel):
    def __init__(self, video=(2, 1, 1), action=(2, 1, 1), chunk_frames: int = 2, width: int = 128) -> None:
        shapes = {"video": tuple(video), "action": tuple(action)}
        super().__init__(Layout(streams=("video", "action"), shapes=shapes, chunk_frames=chunk_frames))
        v, a = prod(video), prod(action)
        self.net = nn.ModuleDict({"video": mlp(v + 1 + v, width, v), "action": mlp(a + 1 + 2 * v, width, a)})

    def velocity(self, noisy, sigma, clean, context):
        out, seen, size = {}, rows(clean["video"]), context.get("chunk_frames") or self.chunk_frames
        before = nn.functional.pad(seen, (0, 0, 1, 0))[:, :-1]
        for name, x in noisy.items():
            frames = x.shape[2]
            # An action sees the clean video on both its sides; a frame sees the noisy one before it, and the first of
            # a chunk the clean one.
            told = torch.cat([before, seen], -1)[:, -frames:]
            if name == "video":
                told = rows(x).roll(1, 1)
                told[:, ::size] = before[:, -frames::size]
            data = self.net[name](torch.cat([rows(x), sigma[name][..., None], told], -1))
            data = data.unflatten(2, self.shapes[name]).transpose(1, 2)
            out[name] = (x - data) / sigma[name][:, None, :, None, None].clamp(min=0.05)
        return out


def rows(x: Tensor) -> Tensor:
    """[B, C, F, H, W] -> [B, F, C H W]."""
    return x.transpose(1, 2).flatten(2)


def mlp(inputs: int, width: int, outputs: int) -> nn.Module:
    inner = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*inner, nn.Linear(width, outputs))


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
