# SPDX-License-Identifier: Apache-2.0
"""Random windows for a tiny model."""

import torch

from flashwam.core.batch import Batch


class Windows:
    """Random windows of a tiny model; draw i depends on i alone."""

    def __init__(self, wam, chunks=1):
        self.shapes, self.frames, self.asked = wam.shapes, wam.chunk_frames * chunks, []

    def batch(self, indices):
        self.asked += indices
        clean = {name: [] for name in self.shapes}
        for i in indices:
            generator = torch.Generator().manual_seed(i)
            for name, (c, h, w) in self.shapes.items():
                clean[name].append(torch.randn(c, self.frames, h, w, generator=generator))
        clean = {name: torch.stack(parts) for name, parts in clean.items()}
        size = len(indices)
        given = torch.zeros(size, self.frames, dtype=torch.bool)
        given[:, 0] = True
        mask = {name: torch.ones(size, 1, self.frames, 1, 1, dtype=torch.bool) for name in clean}
        return Batch(
            clean=clean,
            history=clean,
            mask=mask,
            given=given,
            text=torch.ones(size, 2, 32) * torch.tensor(indices)[:, None, None],
            null_text=torch.zeros(2, 32),
            index=torch.tensor(indices),
        )
