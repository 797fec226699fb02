# SPDX-License-Identifier: Apache-2.0
"""From noise to chunks: one stepping rule for teacher and student, and the closed-loop rollout built on it.

Letters: B episodes, C channels, F latent frames of a chunk, H and W the rest of a stream's tokens.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashwam.core.checks import check_drawn
from flashwam.core.consistency import ConsistencyFunction, Linear
from flashwam.core.schedule import Schedule
from flashwam.core.streams import StreamSpec
from flashwam.core.temperature import Temperature, check_temperature, temperature_of
from flashwam.core.unit_amplitude import UnitAmplitude
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel
from flashwam.wam.velocities import check_velocities

__all__ = ["Rollout", "StreamSampler", "draw", "renoise", "samplers_for"]

_ACTION = "action"
"""The stream whose frames are known before they are seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSampler:
    """The way in which one stream is drawn.

    Args:
        schedule: Levels come from its `steps`-step grid.
        consistency: The function the stream was distilled with; `Linear` makes every step plain Euler.
        steps: Network evaluations.
        guidance_scale: Of the velocity; 1 for none.
        temperature: Times the noise is what it begins with.
    """

    schedule: Schedule
    consistency: ConsistencyFunction
    steps: int
    guidance_scale: float = 1.0
    temperature: float = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values that determine what it draws from given noise, for what is kept under them."""
        return {
            "schedule": dict(self.schedule.config),
            "function": dict(self.consistency.config),
            "steps": self.steps,
            "guidance_scale": float(self.guidance_scale),
            # Left out of unit noise, so that what earlier versions kept is found.
            **({} if self.temperature == 1 else {"temperature": float(self.temperature)}),
        }

    def start(self, noise: Tensor) -> Tensor:
        """The state at sigma 1, of unit noise [B, C, F, H, W]."""
        return noise if self.temperature == 1 else self.temperature * noise


def draw(
    velocity: Callable[[dict[str, Tensor], dict[str, Tensor]], Mapping[str, Tensor]],
    noise: Mapping[str, Tensor],
    samplers: Mapping[str, StreamSampler],
    *,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Carries streams from noise to data together: x0 = f(x, sigma), then x = (1 - sigma') x0 + sigma' eps.

    eps is what x0 implies. With f = x - sigma v this is Euler's step to sigma'; with any other f the last step returns
    f itself, as the stream was trained. Streams with fewer steps than others wait at sigma 0.

    Args:
        velocity: (states [B, C, F, H, W], levels [B, F], each by stream name) -> velocities like the states.
        noise: Stream name -> unit noise, [B, C, F, H, W].
        samplers: Of every stream in `noise`: temperature, grid, function and steps.
        given: Stream name -> clean leading frames [B, C, G, H, W] with G <= F, held at sigma 0 throughout.

    Returns:
        Stream name -> clean estimate, [B, C, F, H, W].

    Raises:
        ValueError: A velocity is not like its state.
    """
    given = given or {}
    x = {name: samplers[name].start(unit) for name, unit in noise.items()}
    grids = {name: samplers[name].schedule.sampling_grid(samplers[name].steps).to(torch.float32).tolist() for name in x}
    for k in range(max(samplers[name].steps for name in x)):
        levels = {name: grid[min(k, len(grid) - 1)] for name, grid in grids.items()}
        sigma = {name: state.new_full((state.shape[0], state.shape[2]), levels[name]) for name, state in x.items()}
        for name, frames in given.items():
            x[name] = _led_by(frames, x[name])
            sigma[name][:, : frames.shape[2]] = 0
        predicted = velocity(x, sigma)
        check_velocities(predicted, x, getattr(velocity, "__self__", velocity))
        for name, grid in grids.items():
            if k + 1 >= len(grid):
                continue
            level, following = grid[k], grid[k + 1]
            clean = samplers[name].consistency(x[name], sigma[name], predicted[name])
            x[name] = renoise(x[name], clean, level, following)
    return {name: _led_by(given[name], state) if name in given else state for name, state in x.items()}


def renoise(x: Tensor, clean: Tensor, level: float, following: float) -> Tensor:
    """The state at level `following` that has the clean estimate and the noise of a state `x` at `level`."""
    eps = (x - (1 - level) * clean) / level
    return (1 - following) * clean + following * eps


def _led_by(frames: Tensor, x: Tensor) -> Tensor:
    """`x` with its leading frames replaced."""
    return torch.cat([frames, x[:, :, frames.shape[2] :]], 2)


def samplers_for(
    specs: Mapping[str, StreamSpec],
    *,
    steps: Mapping[str, int] | None,
    teacher: bool,
    plain_euler: bool = False,
    unit_amplitude: bool = False,
    temperature: Temperature | None = None,
) -> dict[str, StreamSampler]:
    """The sampler of every stream.

    Args:
        specs: The streams, as trained.
        steps: Stream name -> steps; None for the teacher's own.
        teacher: A teacher is a velocity network: Euler, guided. A student applies its own function; its guidance is
            in its weights.
        plain_euler: Ignores the student's functions, to measure what that mismatch costs.
        unit_amplitude: Brings the student's functions to the data's amplitude, see `UnitAmplitude`.
        temperature: Of every stream's noise, or stream -> of its own; the streams' own where None.

    Raises:
        ValueError: Plain Euler and unit amplitude are both asked for, or there is no such temperature or stream.
    """
    if plain_euler and unit_amplitude:
        raise InputError("plain Euler ignores a student's functions, so their amplitude cannot be chosen: ask for one")
    if temperature is not None:
        check_temperature(temperature)
        if isinstance(temperature, Mapping) and (unknown := sorted(set(temperature) - set(specs))):
            raise InputError(f"temperature: no such stream {unknown}; expected any of {sorted(specs)}")
    return {
        name: StreamSampler(
            schedule=spec.schedule,
            consistency=_function(spec, ignored=teacher or plain_euler, unit_amplitude=unit_amplitude),
            steps=spec.teacher_steps if steps is None else steps[name],
            guidance_scale=spec.guidance_scale if teacher else 1.0,
            temperature=temperature_of(temperature, name, spec.teacher_temperature if teacher else spec.temperature),
        )
        for name, spec in specs.items()
    }


def _function(spec: StreamSpec, *, ignored: bool, unit_amplitude: bool) -> ConsistencyFunction:
    if ignored:
        return Linear()
    return UnitAmplitude(function=spec.consistency) if unit_amplitude else spec.consistency


class Rollout:
    """B episodes in lock-step: `predict` draws the next chunk, `observe` puts what really happened in its place.

    Args:
        wam: The model.
        samplers: Stream name -> sampler, for every stream of the model; probes are looked at once, in 1 step.
        text: [B, L, D].
        first: Stream name -> clean first latent frame, [B, C, 1, H, W]: the observation, and zeros for actions; the
            model's senses too.
        null_text: [L, D]; needed where a sampler is guided.
        generator: Of the noise.
        clock: Tells seconds. On a device that is handed its work, `time.perf_counter` tells when a stage was handed
            over, and not when it was done; see `flashwam.system.stage_clock`.

    Attributes:
        seconds: Streams of a stage, joined by "+" -> seconds spent drawing them, by the clock.
        chunks: Chunks drawn so far.
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
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        missing = [name for name in wam.streams if name not in samplers or name not in first]
        if missing:
            raise ValueError(f"every stream of {wam.streams} needs a sampler and a first frame; missing {missing}")
        _check_senses(wam, first)
        often = [name for name in wam.probes if samplers[name].steps != 1]
        if often:
            raise InputError(f"{often} are looked at once and never drawn: they take 1 step, such as '1v/4a'")
        self.wam = wam
        self.samplers = samplers
        self.generator = generator
        self.seconds = {"+".join(stage): 0.0 for stage in wam.stages}
        self.chunks = 0
        self._batch, self._clock = text.shape[0], clock
        self._first: Mapping[str, Tensor] | None = None
        self._drawn: Mapping[str, Tensor] = {}
        self._under_way = 0
        self.session = wam.session(
            text, null_text=null_text, guidance={name: s.guidance_scale for name, s in samplers.items()}
        )
        self.session.clock = clock
        if wam.conditions_on_first:
            self.observe(first)
        else:
            self._first = first

    @property
    def executed(self) -> slice:
        """Frames of the current chunk that are to be executed: those after the observed one, and after those that are
        under way where a chunk begins before them, as many as the model plans for."""
        observed = int(self.wam.conditions_on_first or self._first is not None)
        if self.wam.conditions_on_first:
            observed += self._under_way
        return slice(observed, min(observed + self.wam.execute_frames, self.wam.chunk_frames))

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
            replace: Streams whose draw is given instead of made, all of a stage, for crossing one model's video with
                another's actions.

        Returns:
            Stream name -> [B, C, F, H, W], without the model's probes. In an episode's first chunk frame 0 is the
            given one, unless the model conditions on it.

        Raises:
            UnsoundError: something that was drawn is not finite; the episode has to begin anew.
        """
        if noise is None:
            noise = self.noise()
        replace = replace or {}
        drawn: dict[str, Tensor] = {}
        for stage in self.wam.stages:
            start = self._clock()
            if not set(stage).isdisjoint(self.wam.probes):
                self._probe(stage, noise, replace)
                self.seconds["+".join(stage)] += self._clock() - start
                continue
            replaced = {name: replace[name] for name in stage if name in replace}
            if replaced and len(replaced) < len(stage):
                raise ValueError(f"the streams {stage} are drawn together; replace all of them or none")
            drawn |= replaced or draw(
                self.session.velocity,
                {name: noise[name] for name in stage},
                self.samplers,
                given=None if self._first is None else {name: self._first[name] for name in stage},
            )
            if stage != self.wam.stages[-1]:
                for name in stage:
                    self.session.append(name, drawn[name], predicted=True)
            self.seconds["+".join(stage)] += self._clock() - start
        self.session.drop_predicted()
        self.chunks += 1
        # At the end, since a look at what a GPU computes waits for it.
        for name, x in drawn.items():
            check_drawn(x, name, chunk=self.chunks)
        self._drawn = drawn
        return drawn

    def _probe(self, stage: tuple[str, ...], noise: Mapping[str, Tensor], replace: Mapping[str, Tensor]) -> None:
        """Lets the session look at a stage from pure noise, behind the given frames."""
        if not set(stage).isdisjoint(replace):
            raise ValueError(f"this model looks at {stage} and never draws it: there is nothing to replace")
        noise = {name: self.samplers[name].start(x) for name, x in noise.items()}
        sigma = {name: x.new_ones(x.shape[0], x.shape[2]) for name, x in noise.items()}
        if self._first is not None:
            noise = {name: _led_by(self._first[name], x) for name, x in noise.items()}
            for name, frames in self._first.items():
                sigma[name][:, : frames.shape[2]] = 0
        self.session.probe(noise, sigma)

    @torch.no_grad()
    def observe(self, observed: Mapping[str, Tensor], *, under_way: int = 0) -> None:
        """Appends what really happened: stream name -> [B, C, F, H, W] (executed actions, seen frames, senses).

        Without `conditions_on_first` that is a whole chunk, an episode's first frame included.

        The next chunk can be drawn while the last actions of this one are still executed. A model that remembers chunks
        is told them as executed, with the frames that it imagined for them, so that its next chunk begins where the
        robot will be; the next call puts what was seen in the place of what was imagined. One that
        `conditions_on_first` begins its next chunk at what was seen last, and the actions that are executed meanwhile
        are passed over in it (`executed`).

        Args:
            observed: What happened; of the frames under way the actions alone. What is seen of them comes with the next
                call, before its own frames.
            under_way: Last frames of the actions that are not executed yet.

        Raises:
            ValueError: A sense is missing, nothing was seen, or a model that remembers chunks imagines no frames.
        """
        _check_senses(self.wam, observed)
        if under_way or self._under_way:
            late = {name: observed[name][:, :, : self._under_way] for name in self.wam.layout.observed_shapes}
            observed = self._without_gaps(observed, under_way)
            if self._under_way and not self.wam.conditions_on_first:
                self.session.amend({name: x for name, x in late.items() if name != _ACTION})
        for name in self.wam.layout.observed_shapes:
            self.session.append(name, observed[name], predicted=False)
        self.session.advance(observed[self.wam.streams[0]].shape[2])
        self._first, self._under_way = None, under_way

    def check_under_way(self) -> None:
        """Checks that the next chunk can be drawn while actions of this one are under way.

        Raises:
            ValueError: The model remembers chunks and imagines no frames that could stand for those to come, or has
                drawn no chunk.
        """
        if missing := self.wam.layout.never_imagined:
            raise InputError(
                f"the model never draws its {' and '.join(missing)}, so nothing stands for what is not seen yet of "
                "actions under way: let the robot hold while a chunk is computed"
            )
        if not (self._drawn or self.wam.conditions_on_first):
            raise InputError("no chunk was drawn whose actions could be under way: draw one before")

    def _without_gaps(self, observed: Mapping[str, Tensor], under_way: int) -> dict[str, Tensor]:
        """The frames of one chunk, of every stream and sense alike."""
        seen = {name: x if name == _ACTION else x[:, :, self._under_way :] for name, x in observed.items()}
        if min(x.shape[2] for x in seen.values()) < 1 or not 0 <= under_way < seen[_ACTION].shape[2]:
            raise InputError("a frame must be seen between two chunks: look later, or let the robot wait")
        if self.wam.conditions_on_first:
            return {**seen, _ACTION: seen[_ACTION][:, :, : seen[_ACTION].shape[2] - under_way]}
        self.check_under_way()
        for name, x in seen.items():
            if name in self._drawn and name != _ACTION:
                imagined = self._drawn[name][:, :, x.shape[2] : x.shape[2] + under_way]
                seen[name] = torch.cat([x, imagined.to(x)], 2)
            elif name in self.wam.senses:
                seen[name] = torch.cat([x, x[:, :, -1:].expand(-1, -1, under_way, -1, -1)], 2)
        return seen


def _check_senses(wam: WorldActionModel, observed: Mapping[str, Tensor]) -> None:
    missing = {name: size for name, size in wam.senses.items() if name not in observed}
    if missing:
        raise InputError(f"the model is told {missing} numbers of every frame beside its streams; got {list(observed)}")
