# SPDX-License-Identifier: Apache-2.0
"""Toy models and data: a network of a few hundred weights, teachers in closed form and the jumps that they make."""

import time

import numpy as np
import torch
from matplotlib.image import imsave
from torch import Tensor, nn

from flashwam.core.batch import Batch
from flashwam.core.noise import append_dims
from flashwam.distillation.judging import Judgement
from flashwam.distillation.methods.consistency import jump_levels
from flashwam.distillation.methods.states import start_states, training_levels
from flashwam.evaluation.open_loop import window_draws
from flashwam.sampling import samplers_for
from flashwam.wam import Layout, WorldActionModel

FRAMES, CHUNK, TEXT = 4, 2, 3
SHAPES = {"video": (2, 2, 2), "action": (3, 2, 1)}
MEAN, SPREAD = {"video": 0.7, "action": -0.4}, {"video": 0.5, "action": 0.3}


class ToyWam(WorldActionModel):
    """Noisy frames see their own level, the text, and the mean of the clean tokens before them; a stream of a chunk
    sees the clean tokens of that chunk's earlier streams."""

    layout = Layout(streams=("video", "action"), chunk_frames=CHUNK, shapes=SHAPES)

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = {name: c * h * w for name, (c, h, w) in SHAPES.items()}
        past = sum(sizes.values())
        self.inside = nn.ModuleDict({n: nn.Linear(s + 1 + TEXT + past + 1, width) for n, s in sizes.items()})
        self.shared = nn.Linear(width, width)
        self.outside = nn.ModuleDict({n: nn.Linear(width, s) for n, s in sizes.items()})
        self.calls = 0

    @classmethod
    def create(cls, *, seed: int = 0, width: int = 16) -> "ToyWam":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return super().create(width=width)

    def velocity(self, noisy, sigma, clean, context):
        self.calls += 1
        flat = {n: x.transpose(1, 2).flatten(2) for n, x in clean.items()}
        batch, total = next(iter(flat.values())).shape[:2]
        frames = next(iter(noisy.values())).shape[2]
        chunk = context.get("chunk_frames") or self.chunk_frames
        clean_sigma = context.get("clean_sigma") or {}
        level = sum((s.mean(1) for s in clean_sigma.values()), context["text"].new_zeros(batch))
        text = context["text"].mean(1)[:, None].expand(-1, frames, -1)
        out = {}
        for position, name in enumerate(n for n in self.streams):
            if name not in noisy:
                continue
            past = []
            for other, x in flat.items():
                reach = 1 if self.streams.index(other) < position else 0
                seen = [(f // chunk + reach) * chunk for f in range(total - frames, total)]
                past.append(torch.stack([x[:, :end].sum(1) / max(1, end) for end in seen], 1))
            parts = [noisy[name].transpose(1, 2).flatten(2), sigma[name][..., None], text, *past]
            parts.append(level[:, None, None].expand(-1, frames, 1))
            h = torch.tanh(self.shared(torch.tanh(self.inside[name](torch.cat(parts, -1)))))
            c, height, width = SHAPES[name]
            out[name] = self.outside[name](h).unflatten(2, (c, height, width)).transpose(1, 2)
        return out


class GaussianTeacher(ToyWam):
    """The exact velocity of independent Gaussian data, shifted by the text's mean for the video."""

    def velocity(self, noisy, sigma, clean, context):
        self.calls += 1
        shift = context["text"].mean((1, 2))
        return {
            name: gaussian_velocity(x, append_dims(sigma[name], x), self.mean(name, shift, x), SPREAD[name])
            for name, x in noisy.items()
        }

    @staticmethod
    def mean(name: str, shift: Tensor, x: Tensor) -> Tensor:
        return MEAN[name] + shift.reshape(-1, *(1,) * (x.ndim - 1))


def gaussian_velocity(x: Tensor, sigma: Tensor, mean: Tensor, spread: float) -> Tensor:
    """E[eps - x0 | x] for x0 ~ N(mean, spread^2)."""
    variance = (1 - sigma) ** 2 * spread**2 + sigma**2
    return (sigma - (1 - sigma) * spread**2) / variance * (x - (1 - sigma) * mean) - mean


def gaussian_flow(x: Tensor, start: Tensor, end: Tensor, mean: Tensor, spread: float) -> Tensor:
    """The exact solution of the flow from level `start` to level `end`."""

    def scale(s: Tensor) -> Tensor:
        return torch.sqrt((1 - s) ** 2 * spread**2 + s**2)

    return (1 - end) * mean + scale(end) / scale(start) * (x - (1 - start) * mean)


class Point(ToyWam):
    """The exact velocity of data at one point, which is the sample itself: its flow is straight."""

    def velocity(self, noisy, sigma, clean, context):
        return {n: (x - clean[n]) / append_dims(sigma[n], x).clamp(min=1e-6) for n, x in noisy.items()}


def teacher_jump(method, batch, draws):
    """States, paths and the teacher's end, as the method's own loss makes them."""
    start = training_levels(method.roles.model, batch, draws, method.streams)
    path = {
        n: jump_levels(s.schedule, start[n], s.schedule.jump(start[n], s.anchors), s.teacher_substeps)
        for n, s in method.streams.items()
    }
    noisy, sigma, _ = start_states(batch, {n: p[0] for n, p in path.items()}, draws)
    end, end_sigma = method._teacher_jump(noisy, path, batch, draws)
    return noisy, sigma, end, end_sigma


class ToySource:
    """Gaussian data; draw i depends on i alone."""

    def __init__(self, *, poison: int | None = None, seconds: float = 0.0) -> None:
        self.poison, self.seconds = poison, seconds

    def batch(self, indices: list[int]) -> Batch:
        time.sleep(self.seconds)
        clean: dict[str, list[Tensor]] = {name: [] for name in SHAPES}
        texts = []
        for i in indices:
            generator = torch.Generator().manual_seed(i)
            for name, (c, h, w) in SHAPES.items():
                noise = torch.randn(c, FRAMES, h, w, generator=generator)
                clean[name].append(MEAN[name] + SPREAD[name] * noise)
                if i == self.poison and name == "action":
                    clean[name][-1][0, 2] = float("nan")
            texts.append(torch.randn(2, TEXT, generator=generator) * 0.1)
        data = {name: torch.stack(parts) for name, parts in clean.items()}
        given = torch.zeros(len(indices), FRAMES, dtype=torch.bool)
        given[:, 0] = True
        mask = {name: torch.ones(len(indices), 1, FRAMES, 1, 1, dtype=torch.bool) for name in SHAPES}
        mask["action"] = mask["action"].expand(-1, 3, -1, 2, -1).clone()
        mask["action"][:, 2] = False
        return Batch(
            clean=data,
            history=data,
            mask=mask,
            given=given,
            text=torch.stack(texts),
            null_text=torch.zeros(2, TEXT),
            index=torch.tensor(indices),
        )


class ToyJudge:
    """Draws from the model as it is and measures how far its actions are from the data; notes when it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, model, streams, *, place, tells):
        self.asked.append(place.name)
        # It may draw without a seed, whatever a training draws next.
        torch.rand(3)
        samplers = samplers_for(streams, steps=dict.fromkeys(streams, 1), teacher=False)
        batch = ToySource().batch([1_000_000, 1_000_001])
        drawn = window_draws(model, samplers, batch, draws=2, seed=0)
        if not tells:
            return Judgement()
        error = (drawn[0]["action"][::2] - batch.clean["action"][:, :, :CHUNK]).square().mean()
        picture = place.with_name(f"{place.name}_noise.png")
        picture.parent.mkdir(exist_ok=True)
        imsave(picture, np.zeros((4, 6, 3), np.uint8))
        return Judgement(
            measures={"action_error_expert": float(error), "training": float(model.training)},
            pictures={"noise": picture},
        )
