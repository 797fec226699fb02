# SPDX-License-Identifier: Apache-2.0
"""Families that are as little as a family can be, and samples for them."""

from dataclasses import replace

import torch
from torch import nn

from flashwam.core.batch import Batch
from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.sampling import StreamSampler
from flashwam.wam import Layout, WorldActionModel
from flashwam.wam.replay import ReplaySession

FRAMES, BATCH = 3, 2
SHAPES = {"video": (2, 2, 2), "action": (3, 2, 1)}


class Minimal(WorldActionModel):
    """As little as a family can be."""

    layout = Layout(streams=("video", "action"), chunk_frames=FRAMES, shapes=SHAPES)

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def velocity(self, noisy, sigma, clean, context):
        return {name: self.gain * x for name, x in noisy.items()}


class Wider(Minimal):
    """A family whose weights do not fit those of `Minimal`."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.zeros(2))


class Joint(Minimal):
    """Both streams in one pass; the data is the observation, so x0 is known and every velocity exact."""

    layout = replace(
        Minimal.layout,
        stages=(("video", "action"),),
        conditions_on_first=True,
        frame_levels=False,
        execute_frames=1,
    )

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__(gain)
        self.calls = []

    def velocity(self, noisy, sigma, clean, context):
        frames = next(iter(noisy.values())).shape[2]
        self.calls.append({name: (level.clone(), clean[name][:, :, -frames].clone()) for name, level in sigma.items()})
        out = {}
        for name, x in noisy.items():
            level = sigma[name][:, None, :, None, None]
            x0 = clean[name][:, :, -frames].unsqueeze(2) if name == "video" else noisy["video"].mean() * 0
            out[name] = self.gain * torch.where(level > 0, (x - x0) / level.clamp(min=1e-6), 0)
        return out


class Partial(Joint):
    """Puts out no action in the last slot of a frame, and none in the last frame."""

    drawn = torch.ones(1, FRAMES, 2, 1, dtype=torch.bool)
    drawn[:, :, 1] = drawn[:, -1] = False
    layout = replace(Joint.layout, predicted={"action": drawn})


class Seer(Minimal):
    """Looks at its video and draws actions that are the mean of the noise it looked at."""

    layout = replace(Minimal.layout, probes=("video",))

    def velocity(self, noisy, sigma, clean, context):
        self.noisy = noisy
        return {"action": self.gain * (noisy["action"] - context["noise"]["video"].mean())}

    def session(self, text, *, null_text=None, guidance=None):
        return SeerSession(self, text)


class SeerSession(ReplaySession):
    def probe(self, noise, sigma):
        self.seen, self.level = noise, sigma

    def velocity(self, noisy, sigma):
        return self._wam.velocity(noisy, sigma, {}, {"text": self._text, "noise": self.seen})


def sampler(steps):
    return StreamSampler(schedule=NoiseSchedule(2.0), consistency=Linear(), steps=steps)


def frame(value, name):
    c, h, w = SHAPES[name]
    return torch.full((BATCH, c, 1, h, w), float(value))


def batch(frames=FRAMES):
    generator = torch.Generator().manual_seed(5)
    clean = {n: torch.randn(BATCH, c, frames, h, w, generator=generator) for n, (c, h, w) in SHAPES.items()}
    given = torch.zeros(BATCH, frames, dtype=torch.bool)
    given[:, 0] = True
    mask = {name: torch.ones(BATCH, 1, frames, 1, 1, dtype=torch.bool) for name in SHAPES}
    mask["action"][:, :, 0] = False
    return Batch(
        clean=clean,
        history=clean,
        mask=mask,
        given=given,
        text=torch.zeros(BATCH, 1, 3),
        null_text=torch.zeros(1, 3),
        index=torch.arange(BATCH),
    )


def specs():
    return {name: StreamSpec(name=name, schedule=NoiseSchedule(2.0)) for name in SHAPES}
