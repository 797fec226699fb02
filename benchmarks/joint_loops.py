# SPDX-License-Identifier: Apache-2.0
"""The loops of a family that draws video and actions together: the published one, the same captured, and ours.

The published loop is VideoVLA's: DDIM with both prompts in one batch in every step, on the stock network's own path. It
has no past but the observed frame, so there is nothing to observe but that.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from loops import Way
from sizes import STREAMS
from timing import Clock, Replayed
from torch import Tensor

from flashwam.core.consistency import Linear
from flashwam.core.noise import vp_from_flow_sigma
from flashwam.sampling import Rollout, StreamSampler
from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.cogvideox.coordinates import network_timestep

__all__ = ["GUIDANCE", "CapturedJointLoop", "JointLoop", "PublishedJointLoop", "joint_inputs", "joint_ways"]

GUIDANCE = 4.0
"""The authors' own jumps between 1 and 7 from step to step; the passes are the same."""


class PublishedJointLoop:
    """Many guided steps of the stock network; the observation is a second block of channels.

    Args:
        wam: The model.
        text: [1, L, D].
        null_text: [L, D].
        steps: Of both streams.
        seen: Stream name -> a chunk as it really was; its first frame is the observation.
    """

    def __init__(self, wam: CogVideoX, text: Tensor, null_text: Tensor, *, steps: int, seen: dict[str, Tensor]) -> None:
        self.wam, self.steps = wam, steps
        self.text = torch.cat([text, null_text[None]])
        self.clock = Clock(text.device)
        self.drawn: dict[str, Tensor] = {}
        video = seen["video"].transpose(1, 2)
        self.shown = torch.cat([video[:, :1], torch.zeros_like(video[:, 1:])], 1)
        self.shapes = {"video": video.shape, "action": (1, wam.config.action_tokens, wam.config.action_dim)}
        self.grid = wam.schedule.sampling_grid(steps)

    def restart(self) -> None:
        """Every chunk is alike."""

    def velocity(self, video: Tensor, action: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The network's guided output: alpha eps - s x0 of both streams."""
        seen = torch.cat([video, self.shown], 2).expand(2, -1, -1, -1, -1)
        with_text = self.wam.network(seen, action.expand(2, -1, -1), self.text, timestep.expand(2))
        assert with_text is not None
        guided = (torch.lerp(x[1:], x[:1], GUIDANCE) for x in with_text)
        return next(guided), next(guided)

    def chunk(self, noise: dict[str, Tensor] | None = None) -> dict[str, float]:
        """Draws a chunk; gives seconds by stage."""
        self.clock()
        like = self.text
        noise = noise or {name: torch.randn(shape, device=like.device) for name, shape in self.shapes.items()}
        x = dict(noise)
        for level, following in zip(self.grid, self.grid[1:], strict=False):
            timestep = network_timestep(self.wam.schedule, level[None]).to(like.device, torch.float32)
            out = self.velocity(*(x[name].to(like.dtype) for name in STREAMS), timestep)
            (alpha, s), (alpha_next, s_next) = vp_from_flow_sigma(level), vp_from_flow_sigma(following)
            for name, v in zip(STREAMS, out, strict=True):
                clean, eps = alpha * x[name] - s * v.float(), s * x[name] + alpha * v.float()
                x[name] = (alpha_next * clean + s_next * eps).float()
        self.drawn = x
        return {"+".join(STREAMS): self.clock()}


class CapturedJointLoop(PublishedJointLoop):
    """The same loop with its pass recorded."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._recorded: _Pair | None = None

    def velocity(self, video: Tensor, action: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """See `PublishedJointLoop.velocity`."""
        if self._recorded is None:
            # Tables of positions are made on the host, the first time.
            super().velocity(video, action, timestep)
            self._recorded = _Pair(super().velocity, (video, action, timestep))
        return self._recorded(video, action, timestep)


class _Pair:
    """`Replayed` of a function that gives two tensors."""

    def __init__(self, function: Any, inputs: tuple[Tensor, ...]) -> None:
        self._shapes: list[torch.Size] = []

        def flat(*values: Tensor) -> Tensor:
            results = function(*values)
            self._shapes[:] = [x.shape for x in results]
            return torch.cat([x.flatten() for x in results])

        self._replayed = Replayed(flat, inputs)

    def __call__(self, *values: Tensor) -> tuple[Tensor, Tensor]:
        parts = self._replayed(*values).split([shape.numel() for shape in self._shapes])
        first, second = (part.view(shape) for part, shape in zip(parts, self._shapes, strict=True))
        return first, second


class JointLoop:
    """`flashwam.sampling.Rollout`, one chunk of an episode after another."""

    def __init__(
        self,
        wam: CogVideoX,
        text: Tensor,
        null_text: Tensor,
        *,
        steps: int,
        guided: bool,
        seen: dict[str, Tensor],
    ) -> None:
        sampler = StreamSampler(
            schedule=wam.schedule, consistency=Linear(), steps=steps, guidance_scale=GUIDANCE if guided else 1.0
        )
        first = {name: x[:, :, :1] for name, x in seen.items()}
        self.rollout = Rollout(wam, dict.fromkeys(STREAMS, sampler), text=text, null_text=null_text, first=first)
        executed = self.rollout.executed
        self.seen = {name: x[:, :, executed] for name, x in seen.items()}
        self.clock = Clock(text.device)

    def restart(self) -> None:
        """Every chunk is alike."""

    def chunk(self) -> dict[str, float]:
        """Draws a chunk and observes it; gives seconds by stage."""
        self.clock()
        self.rollout.predict()
        drawn = self.clock()
        self.rollout.observe(self.seen)
        return {"+".join(STREAMS): drawn, "cache": self.clock()}


def joint_inputs(wam: CogVideoX, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Text and a chunk of noise in place of what was seen: keywords of every loop."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    length, width = wam.text_shape
    return {
        "text": random(1, length, width),
        "null_text": random(length, width),
        "seen": {name: random(1, c, wam.chunk_frames, h, w) for name, (c, h, w) in wam.shapes.items()},
    }


def joint_ways(wam: CogVideoX, *, steps: int, device: torch.device, dtype: torch.dtype) -> list[Way]:
    """Students and teacher, plain and graphed, and the published loop; those that take long come last."""
    inputs = joint_inputs(wam, device, dtype)
    tokens = wam.pass_tokens(wam.chunk_frames) + wam.text_shape[0]

    def ours(kind: str, rollout: str, count: int, *, guided: bool = False) -> Way:
        model = CogVideoX(wam.transformer, wam.action, replace(wam.config, rollout=rollout)).eval()
        label = "" if rollout == "dynamic" else f" {rollout}"
        return Way(
            name=f"{kind}{label} {count}v/{count}a{' guided' if guided else ''}",
            passes=count,
            tokens=(2 if guided else 1) * count * tokens,
            build=partial(JointLoop, model, steps=count, guided=guided, **inputs),
            captured=rollout == "graphed",
        )

    def published(*, captured: bool) -> Way:
        loop = CapturedJointLoop if captured else PublishedJointLoop
        return Way(
            name=f"published{' captured' if captured else ''} {steps}v/{steps}a guided",
            passes=steps,
            tokens=2 * steps * tokens,
            build=partial(loop, wam, steps=steps, **inputs),
            captured=captured,
        )

    return [
        ours("student", "dynamic", 1),
        ours("student", "graphed", 1),
        published(captured=False),
        ours("teacher", "graphed", steps, guided=True),
        published(captured=True),
        ours("teacher", "dynamic", steps, guided=True),
    ]
