# SPDX-License-Identifier: Apache-2.0
"""The model of `my_wam.py` with one network for both streams, and its samples as seen from the side."""

from dataclasses import replace

import torch
from my_wam import MyWAM, TwoWays, mlp

from flashwam.core.batch import Batch


class OneNet(MyWAM):
    def __init__(self, width: int = 128) -> None:
        super().__init__(width=width)
        self.net = mlp(2 + 1 + 4 + 1, width, 2)

    def velocity(self, noisy, sigma, clean, context):
        out, seen = {}, clean["video"]
        for name, x in noisy.items():
            told = torch.cat([seen.roll(1, 2), seen], 1)[:, :, -x.shape[2] :]
            if name == "video":
                told = torch.cat([x.roll(1, 2), torch.zeros_like(x)], 1)
            level = sigma[name][:, None, :, None, None]
            stream = torch.full_like(level, float(name == "video"))
            out[name] = self.net(torch.cat([x, level, told, stream], 1).movedim(1, -1)).movedim(-1, 1)
        return out


class FromTheSide(TwoWays):
    """Pushes of different lengths; the video shows the length and not the side."""

    def batch(self, indices: list[int]) -> Batch:
        batch = super().batch(indices)
        length = 0.5 + (torch.as_tensor(indices, dtype=torch.float64) * 0.5698402909980532).frac().float()
        video, action = batch.clean["video"].clone(), batch.clean["action"].clone()
        video[:, :, 1] = video[:, :, 0]
        video[:, 1, 1, 0, 0] += length
        action[:, 1, 1, 0, 0] = length
        clean = {"video": video, "action": action}
        return replace(batch, clean=clean, history=clean)
