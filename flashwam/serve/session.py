# SPDX-License-Identifier: Apache-2.0
"""One episode's policy behind the three requests of LingBot-VA's protocol (reset, infer, refresh) and one of our own:
look.

Letters: C and A channels, F latent frames of a chunk, N actions per latent frame, U controls, L text tokens, D width.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashwam.core.checks import UnsoundError, check_drawn
from flashwam.sampling import Rollout
from flashwam.serve.codec import Observation, ObservationCodec, copied, kind_and_shape
from flashwam.serve.crossed import refuse_openpi
from flashwam.serve.model import ServedModel
from flashwam.serve.protocol import Dialect
from flashwam.serve.requests import flag, frames_under_way, observations_in

__all__ = ["MOST_PROMPT", "EpisodeOverError", "LongPromptError", "PolicySession", "in_order"]

MOST_PROMPT = 8192
"""Characters of a prompt; released text encoders take 226 or 512 tokens."""


class LongPromptError(ValueError):
    """A prompt is longer than a session takes."""


class EpisodeOverError(ValueError):
    """A request that was sent before its sender knew that the episode was refused; the next may begin."""


class PolicySession:
    """One episode at a time: reset, then infer and refresh in turns.

    Frame 0 of the first chunk is the first observation, and its actions are padding; the reply carries it all the
    same. A model that executes fewer frames than it draws replies with those alone. Later calls of `infer` ignore the
    observation: what the model knows came through `refresh`.

    Args:
        model: Shared with other sessions; nothing of it is changed.
        most_prompt: Characters of a prompt.

    Attributes:
        stages: Stage -> milliseconds spent on it by the latest request.
        dialect: How the client packs arrays.
    """

    def __init__(self, model: ServedModel, *, most_prompt: int = MOST_PROMPT) -> None:
        self.dialect = Dialect()
        self._most_prompt = most_prompt
        self.stages: dict[str, float] = {}
        self._model = model
        self._device = next(model.wam.parameters()).device
        self._episode: _Episode | None = None
        self._rollout: Rollout | None = None
        self._first: Tensor | None = None
        self._first_senses: dict[str, Tensor] = {}
        self._frames = self._under_way = 0
        self._early = _Early()
        self._refreshed = False
        self._refused = False
        self._generator = torch.Generator()

    @property
    def refused(self) -> bool:
        """True from when an episode could not begin, or drew what nobody may do, until the next one begins."""
        return self._refused

    def handle(self, request: Any) -> tuple[str, dict[str, Any]]:
        """Answers one unpacked request.

        Returns:
            Which request it was, and the reply.

        Raises:
            ValueError, TypeError: the request is not one of the protocol's.
        """
        self.stages = {}
        if not isinstance(request, dict):
            raise ValueError(f"a request is a map; got {type(request).__name__}")
        if flag(request, "reset"):
            self.reset(request.get("prompt"), seed=request.get("seed"))
            return "reset", {}
        if flag(request, "compute_kv_cache"):
            observations: Any = request.get("obs")
            state: Any = request.get("state")
            self.refresh(observations, state, under_way=frames_under_way(request.get("under_way", 0)))
            return "refresh", {}
        if flag(request, "look"):
            looked: Any = request.get("obs")
            self.look(looked)
            return "look", {}
        if self._episode is None:
            refuse_openpi(request)
        return "infer", {"action": self.infer(request.get("obs"))}

    @staticmethod
    def begins(request: Any) -> bool:
        """Tells whether an unpacked request begins an episode, for which its prompt is embedded."""
        try:
            return isinstance(request, dict) and flag(request, "reset")
        except ValueError:
            return False

    def reset(self, prompt: str | None, *, seed: int | None = None) -> None:
        """Begins an episode.

        Args:
            prompt: The instruction. As at the original's server, a reset without one is answered, and the chunk that is
                then asked for is not.
            seed: Of the noise, 0 to 2**63 - 1; drawn anew if None.

        Raises:
            LongPromptError: the prompt is too long; the episode before is over, and the next may begin.
            UserError: it cannot be embedded here, such as for want of a text encoder; likewise.
            ValueError: it is no text, or the seed none.
        """
        self._forget()
        if prompt is not None and not isinstance(prompt, str):
            raise ValueError(f"reset needs a prompt, which is text; got {type(prompt).__name__}")
        if prompt is not None and len(prompt) > self._most_prompt:
            raise LongPromptError(
                f"a prompt may have {self._most_prompt} characters, this one has {len(prompt)}: reset with fewer"
            )
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        elif isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) and 0 <= seed < 2**63:
            self._generator.manual_seed(int(seed))
        else:
            raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1; got {type(seed).__name__}")
        if prompt is None:
            self._refused = False
            return
        codec = self._model.codec()
        guided = any(sampler.guidance_scale != 1 for sampler in self._model.samplers.values())
        with self._timed("text"):
            text = codec.text(prompt).to(self._device)
            null_text = codec.text("")[0].to(self._device) if guided else None
        self._episode, self._refused = _Episode(codec=codec, text=text, null_text=null_text), False

    def infer(self, observation: Observation | None = None) -> np.ndarray:
        """Draws the next chunk.

        Args:
            observation: The first one of the episode; ignored later.

        Returns:
            Controls of the frames to execute, float32 [U, F', N]; all F of the chunk for most models.

        Raises:
            UnsoundError: what was drawn is not finite, or beyond `ActionNorm.limit`; the episode is over.
            ValueError: the request is out of order, or the observation is not what the model is shown.
        """
        episode = self._begun()
        if self._rollout is None:
            self._rollout = self._open(episode, observation)
        try:
            return self._drawn(episode.codec, self._rollout)
        except UnsoundError:
            self._forget()
            raise

    def _drawn(self, codec: ObservationCodec, rollout: Rollout) -> np.ndarray:
        before, executed = dict(rollout.seconds), rollout.executed
        drawn = rollout.predict()
        self._refreshed = False
        for name, seconds in rollout.seconds.items():
            self.stages[name] = 1000 * (seconds - before[name])
        told = slice(0 if self._first is not None else executed.start, executed.stop)
        self._frames = told.stop - told.start
        actions = drawn["action"][:, :, told].float().cpu()
        check_drawn(actions, "action", chunk=rollout.chunks, limit=codec.norm.limit, channels=codec.norm.used)
        controls = np.ascontiguousarray(codec.actions(actions), dtype=np.float32)
        # The last look: whatever a codec made of sound actions.
        check_drawn(torch.from_numpy(controls)[None], "action", chunk=rollout.chunks)
        return controls

    def _forget(self) -> None:
        """Ends the episode, and takes requests that are on their way for its own until the next one begins."""
        self._episode = self._rollout = self._first = None
        self._under_way, self._early, self._refreshed, self._refused = 0, _Early(), False, True

    def look(self, observations: Sequence[Observation]) -> None:
        """Takes what the next refresh will not repeat, and encodes the latent frames that it completes.

        Args:
            observations: Those that follow on what was seen so far.

        Raises:
            ValueError: no chunk was drawn, these are more than it has, or not what the model is shown; the chunk is
                then as it was, so that a corrected call may follow.
        """
        codec = self._begun().codec
        if self._rollout is None:
            raise ValueError("look needs a chunk that was drawn: send infer before")
        observations = [*self._early.waiting, *observations_in(observations)]
        each = self._pictures_a_frame
        whole = len(observations) // each * each
        begun = int(self._first is not None)
        missing = self._under_way + self._frames - begun - self._early.frames
        if len(observations) > each * missing:
            raise ValueError(
                f"{each * missing} observations of the chunk are still to be seen, and {len(observations)} came: send "
                "refresh before the next chunk's"
            )
        # A look that is refused leaves nothing: pictures that wait for the rest of their frame are looked at now.
        codec.check(observations[whole:])
        # Of their own: a robot may take its next picture into the same memory.
        waiting: list[Observation] = [
            copied(observation, self._shown(observation)) for observation in observations[whole:]
        ]
        if whole:
            senses = self._senses(observations[:whole], whole // each)
            with self._timed("vae"):
                self._early.video.append(codec.encode(observations[:whole]).to(self._device))
            self._early.senses.append(senses)
        self._early.waiting = waiting

    def refresh(self, observations: Sequence[Observation], state: np.ndarray, *, under_way: int = 0) -> None:
        """Puts what happened in the place of what was drawn, and moves on to the next chunk.

        Args:
            observations: What was seen since the last refresh, or since the first observation, but for what `look` was
                given; none where that was all.
            state: The controls that were executed, or will have been, [U, F, N]; in the first chunk, frame 0 is
                padding.
            under_way: Last frames of it that are not executed yet; what is seen of them comes with the next refresh,
                first. See `Rollout.observe` for what the model makes of them.

        Raises:
            ValueError: no chunk was drawn since the last refresh, or what was seen or executed is not what it has; what
                was looked at is kept, so that a corrected call may follow.
        """
        codec = self._begun().codec
        if self._rollout is None:
            raise ValueError("refresh needs the first observation: send infer with it before")
        if self._refreshed:
            raise ValueError("this chunk was refreshed before: draw the next one with infer, then refresh that")
        state, early = self._state(state), self._early
        observations = [*early.waiting, *observations_in(observations, some=not early.frames)]
        # A codec keeps the past of what it encodes, so nothing may be refused any more once it has.
        missing = self._still_to_be_seen(observations, under_way)
        if under_way:
            self._rollout.check_under_way()
        begun = self._first is not None
        parts = [*([self._first_senses] if begun else []), *early.senses]
        parts += [self._senses(observations, missing)] if observations else []
        senses = {name: torch.cat([part[name] for part in parts], 2) for name in self._model.wam.senses}
        action = codec.executed(state).to(self._device)
        if begun:
            action = torch.cat([torch.zeros_like(action[:, :, :1]), action[:, :, 1:]], 2)
        with self._timed("vae"):
            seen = [codec.encode(observations).to(self._device)] if observations else []
            video = torch.cat([*([] if self._first is None else [self._first]), *early.video, *seen], 2)
        self._early, self._refreshed = _Early(), True
        with self._timed("cache"):
            self._rollout.observe({"video": video, "action": action, **senses}, under_way=under_way)
        self._first, self._under_way = None, under_way

    def _still_to_be_seen(self, observations: Sequence[Observation], under_way: int) -> int:
        """Counts the latent frames that a refresh brings beside what was looked at; refuses what does not make them."""
        begun, looked, each = int(self._first is not None), self._early.frames, self._pictures_a_frame
        if under_way >= self._frames - begun:
            raise ValueError(
                f"a frame must be seen between two chunks; {under_way} of {self._frames - begun} are under way"
            )
        frames = self._under_way + self._frames - under_way
        missing = frames - begun - looked
        if len(observations) != each * missing:
            after = " after the first chunk" if begun else ""
            told = f"a chunk has {self._frames} latent frames"
            if frames != self._frames or under_way:
                told += f", {under_way} of them under way, and {self._under_way} were before: {frames} are to be seen"
            whole, rest = divmod(looked * each + len(observations), each)
            made = f"are no multiple of {each}" if rest else f"make {begun + whole}"
            raise ValueError(f"{told}; {looked * each + len(observations)} observations{after} {made}")
        return missing

    def _open(self, episode: "_Episode", observation: Observation | None) -> Rollout:
        observations = observations_in(observation if isinstance(observation, list) else [observation])
        if len(observations) != 1:
            raise ValueError(f"an episode begins with one observation; got {len(observations)}")
        # A codec keeps the past of what it encodes, so nothing may be refused any more once it has.
        senses = self._senses(observations, 1)
        with self._timed("vae"):
            first = episode.codec.encode(observations).to(self._device)
        wam = self._model.wam
        channels, height, width = wam.shapes["video"]
        if first.shape != (1, channels, 1, height, width):
            raise ValueError(
                f"the first observation makes latents {list(first.shape)}; expected one of {height, width}"
            )
        actions, per_frame, _ = wam.shapes["action"]
        self._first, self._first_senses = first, senses
        return Rollout(
            wam,
            self._model.samplers,
            text=episode.text,
            null_text=episode.null_text,
            first={
                "video": first,
                "action": first.new_zeros(1, actions, 1, per_frame, 1),
                **self._first_senses,
            },
            generator=self._generator,
        )

    def _senses(self, observations: Sequence[Observation], frames: int) -> dict[str, Tensor]:
        """Gives the model's senses beside pictures, at the end of each frame: name -> [1, S, F, 1, 1]."""
        told = {}
        for name, size in self._model.wam.senses.items():
            key, each = f"observation.{name}", len(observations) // frames
            rows: list[Any] = [observation.get(key) for observation in observations[each - 1 :: each]]
            for row in rows:
                if not isinstance(row, np.ndarray) or row.shape != (size,) or row.dtype.kind not in "fiu":
                    raise ValueError(f"every observation needs {key!r}, float32 [{size}]; got {kind_and_shape(row)}")
            values = np.stack(rows).astype(np.float32)
            if not np.isfinite(values).all():
                raise ValueError(f"{key!r} must be finite")
            told[name] = torch.from_numpy(values.T.copy())[None, :, :, None, None].to(self._device)
        return told

    def _state(self, state: Any) -> np.ndarray:
        shape = (self._frames, self._model.wam.shapes["action"][1])
        if not isinstance(state, np.ndarray) or state.dtype.kind not in "fiu" or state.shape[1:] != shape:
            expected = f"float32 [controls, {shape[0]}, {shape[1]}]"
            raise ValueError(f"state must be the executed controls, {expected}; got {kind_and_shape(state)}")
        executed: np.ndarray = state.astype(np.float32)
        if not np.isfinite(executed).all():
            raise ValueError("state must be finite")
        return executed

    def _shown(self, observation: Observation) -> set[str]:
        """Keys of what the model is shown: its cameras', where it has any of its own, and its senses'."""
        cameras = self._model.metadata.get("cameras") or observation
        return {*cameras, *(f"observation.{name}" for name in self._model.wam.senses)}

    @property
    def _pictures_a_frame(self) -> int:
        return int(self._model.metadata.get("keyframes_per_frame", 1))

    def _begun(self) -> "_Episode":
        if self._episode is None:
            kind = EpisodeOverError if self._refused else ValueError
            raise kind("no episode has begun, or none with a prompt: send reset with a prompt first")
        return self._episode

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stages[stage] = 1000 * (time.perf_counter() - start)


def in_order(controls: np.ndarray) -> np.ndarray:
    """Lines up the controls of an episode's first chunk as they are executed.

    Its first latent frame is the observation, before which nobody does anything.

    Args:
        controls: [U, F, N], see `PolicySession.infer`.

    Returns:
        [(F - 1) N, U].
    """
    return np.ascontiguousarray(controls[:, 1:].transpose(1, 2, 0).reshape(-1, controls.shape[0]))


@dataclass(slots=True)
class _Early:
    """Sights of a chunk before its refresh: latents and senses of whole frames, and the pictures since."""

    video: list[Tensor] = field(default_factory=list)
    senses: list[dict[str, Tensor]] = field(default_factory=list)
    waiting: list[Observation] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Latent frames that are encoded."""
        return sum(x.shape[2] for x in self.video)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Episode:
    """An episode that has begun: its codec, and its prompt as the model takes it."""

    codec: ObservationCodec
    text: Tensor
    null_text: Tensor | None
