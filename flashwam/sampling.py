# SPDX-License-Identifier: Apache-2.0
"""From noise to chunks: one stepping rule for teacher and student, and the closed-loop rollout built on it.

Letters: B episodes, C channels, F latent frames of a chunk, H and W the rest of a stream's tokens.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flashwam.core.consistency import ConsistencyFunction, Linear
from flashwam.core.schedule import Schedule
from flashwam.core.streams import StreamSpec
from flashwam.wam.base import WorldActionModel

__all__ = ["Rollout", "StreamSampler", "draw", "parse_nfe", "samplers_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSampler:
    """How one stream is drawn.

    Args:
        schedule: Levels come from its `steps`-step grid.
        consistency: The function the stream was distilled with; `Linear` makes every step plain Euler.
        steps: Network evaluations.
        guidance_scale: Of the velocity; 1 for none.
    """

    schedule: Schedule
    consistency: ConsistencyFunction
    steps: int
    guidance_scale: float = 1.0


def draw(
    velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, sampler: StreamSampler, *, given: Tensor | None = None
) -> Tensor:
    """Carries noise to data: x0 = f(x, sigma), then x = (1 - sigma') x0 + sigma' eps with the eps that x0 implies.

    With f = x - sigma v this is Euler's step to sigma'; with any other f the last step returns f itself, as the
    stream was trained.

    Args:
        velocity: (x [B, C, F, H, W], sigma [B, F]) -> velocity like x.
        x: Noise, [B, C, F, H, W].
        sampler: Grid, function and steps.
        given: Clean leading frames [B, C, G, H, W] with G <= F, held at sigma 0 throughout.

    Returns:
        Clean estimate, [B, C, F, H, W].
    """
    levels = sampler.schedule.sampling_grid(sampler.steps).to(torch.float32).tolist()
    held = 0 if given is None else given.shape[2]
    for level, following in pairwise(levels):
        sigma = x.new_full((x.shape[0], x.shape[2]), level)
        if given is not None:
            x = torch.cat([given, x[:, :, held:]], 2)
            sigma[:, :held] = 0
        clean = sampler.consistency(x, sigma, velocity(x, sigma))
        eps = (x - (1 - level) * clean) / level
        x = (1 - following) * clean + following * eps
    return x if given is None else torch.cat([given, x[:, :, held:]], 2)


def parse_nfe(text: str, streams: tuple[str, ...] = ("video", "action")) -> dict[str, int] | None:
    """ "1v/2a" -> {"video": 1, "action": 2} by the streams' first letters; "full" -> None, the teacher's own steps."""
    if text == "full":
        return None
    initials = {name[0]: name for name in streams}
    steps = {}
    for part in text.split("/"):
        if len(part) < 2 or part[-1] not in initials or not part[:-1].isdigit() or int(part[:-1]) < 1:
            example = "/".join(f"1{letter}" for letter in initials)
            raise ValueError(f"steps must read like {example!r} or 'full'; got {text!r}")
        steps[initials[part[-1]]] = int(part[:-1])
    if set(steps) != set(streams):
        raise ValueError(f"steps must name every stream of {streams}; got {text!r}")
    return steps


def samplers_for(
    specs: Mapping[str, StreamSpec], *, steps: Mapping[str, int] | None, teacher: bool, plain_euler: bool = False
) -> dict[str, StreamSampler]:
    """The sampler of every stream.

    Args:
        specs: The streams, as trained.
        steps: Stream name -> steps; None for the teacher's own.
        teacher: A teacher is a velocity network: Euler, guided. A student applies its own function; its guidance is
            in its weights.
        plain_euler: Ignores the student's functions, to measure what that mismatch costs.
    """
    return {
        name: StreamSampler(
            schedule=spec.schedule,
            consistency=Linear() if teacher or plain_euler else spec.consistency,
            steps=spec.teacher_steps if steps is None else steps[name],
            guidance_scale=spec.guidance_scale if teacher else 1.0,
        )
        for name, spec in specs.items()
    }


class Rollout:
    """B episodes in lock-step: `predict` draws the next chunk, `observe` puts what really happened in its place.

    Args:
        wam: The model.
        samplers: Stream name -> sampler, for every stream of the model.
        text: [B, L, D].
        first: Stream name -> clean first latent frame, [B, C, 1, H, W]: the observation, and zeros for actions.
        null_text: [L, D]; needed where a sampler is guided.
        generator: Of the noise.
    """

    def __init__(
        self,
        wam: WorldActionModel,
        samplers: Mapping[str, StreamSampler],
        *,
        text: Tensor,
        first: Mapping[str, Tensor],
        null_text: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        missing = [name for name in wam.streams if name not in samplers or name not in first]
        if missing:
            raise ValueError(f"every stream of {wam.streams} needs a sampler and a first frame; missing {missing}")
        self.wam = wam
        self.samplers = samplers
        self.generator = generator
        self.seconds = dict.fromkeys(wam.streams, 0.0)
        self.chunks = 0
        self._batch = text.shape[0]
        self._first: Mapping[str, Tensor] | None = first
        self.session = wam.session(
            text, null_text=null_text, guidance={name: s.guidance_scale for name, s in samplers.items()}
        )

    def noise(self) -> dict[str, Tensor]:
        """Fresh noise for one chunk, stream name -> [B, C, F, H, W], drawn in generation order."""
        device = next(self.wam.parameters()).device
        drawn = {}
        for name in self.wam.streams:
            channels, height, width = self.wam.shapes[name]
            shape = (self._batch, channels, self.wam.chunk_frames, height, width)
            drawn[name] = torch.randn(shape, generator=self.generator).to(device)
        return drawn

    @torch.no_grad()
    def predict(
        self, noise: Mapping[str, Tensor] | None = None, *, replace: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Draws the next chunk of every stream; the cache of real tokens is left as it was.

        Args:
            noise: Stream name -> [B, C, F, H, W]; drawn from the generator if None.
            replace: Streams whose draw is given instead of made, for crossing one model's video with another's
                actions.

        Returns:
            Stream name -> [B, C, F, H, W]. In the first chunk frame 0 is the given one.
        """
        if noise is None:
            noise = self.noise()
        drawn: dict[str, Tensor] = {}
        for name in self.wam.streams:
            start = time.perf_counter()
            if replace is not None and name in replace:
                drawn[name] = replace[name]
            else:
                given = self._first[name] if self._first is not None else None
                drawn[name] = draw(
                    lambda x, sigma, stream=name: self.session.velocity(stream, x, sigma),
                    noise[name],
                    self.samplers[name],
                    given=given,
                )
            if name != self.wam.streams[-1]:
                self.session.append(name, drawn[name], predicted=True)
            self.seconds[name] += time.perf_counter() - start
        self.session.drop_predicted()
        self.chunks += 1
        return drawn

    @torch.no_grad()
    def observe(self, observed: Mapping[str, Tensor]) -> None:
        """Appends the chunk as it really was: stream name -> [B, C, F, H, W] (executed actions, seen frames)."""
        for name in self.wam.streams:
            self.session.append(name, observed[name], predicted=False)
        self.session.advance(self.wam.chunk_frames)
        self._first = None
