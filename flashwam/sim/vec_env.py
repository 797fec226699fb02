# SPDX-License-Identifier: Apache-2.0
"""Several episodes of one task in lock-step, for batched closed-loop evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.tasks import TaskSpec

__all__ = ["ChunkResult", "VecEnv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What executing one chunk of actions led to. Letters: B episodes, T control steps, K pictures.

    Attributes:
        frames: The pictures after every `render_every` control steps, uint8 [B, K, H, W, 3]; an episode that is over
            repeats its last one.
        executed: The actions as they were executed, clipped, zero once an episode was over, float32 [B, T, 4].
        hands: Positions of the hand after every step, [B, T, 3].
        done: Whether an episode is over, bool [B].
        success: Whether it has succeeded, bool [B].
    """

    frames: np.ndarray
    executed: np.ndarray
    hands: np.ndarray
    done: np.ndarray
    success: np.ndarray


class VecEnv:
    """B environments of one task in one process, with one renderer between them.

    Args:
        task: A task or its name.
        count: B.
        size: Height and width of the pictures.
        render_every: Control steps between pictures.
        max_steps: Control steps an episode may take; None takes the task's.
    """

    def __init__(
        self,
        task: TaskSpec | str,
        count: int,
        *,
        size: int = 64,
        render_every: int = 4,
        max_steps: int | None = None,
    ) -> None:
        if count < 1 or render_every < 1:
            raise ValueError(f"count and render_every must be at least 1, got {count} and {render_every}")
        self.envs = [MetaWorldEnv(task, size=size, max_steps=max_steps) for _ in range(count)]
        self.task = self.envs[0].task
        self.render_every = render_every
        self._active = 0
        self._done = np.zeros(0, dtype=bool)
        self._frames = np.zeros((0, size, size, 3), dtype=np.uint8)

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Starts one episode per seed; fewer seeds than environments use the first ones only.

        Args:
            seeds: One seed per episode, at most `count`.

        Returns:
            First pictures, uint8 [B, H, W, 3].
        """
        if not 1 <= len(seeds) <= len(self.envs):
            raise ValueError(f"expected 1 to {len(self.envs)} seeds, got {len(seeds)}")
        self._active = len(seeds)
        self._done = np.zeros(self._active, dtype=bool)
        self._frames = np.stack([env.reset(int(s)) for env, s in zip(self.envs, seeds, strict=False)])
        return self._frames.copy()

    def step_chunk(self, actions: np.ndarray, active: np.ndarray | None = None) -> ChunkResult:
        """Executes T actions in every episode that is not over yet.

        Args:
            actions: [B, T, 4] in [-1, 1] (clipped); T a multiple of `render_every`.
            active: bool [B]; False leaves an episode as it is. None for all.
        """
        actions = np.clip(np.asarray(actions, dtype=np.float32), -1.0, 1.0)
        count, steps = actions.shape[:2]
        if count != self._active or actions.shape[2:] != (4,) or steps % self.render_every:
            raise ValueError(
                f"expected actions [{self._active}, T, 4] with T a multiple of {self.render_every}, got {actions.shape}"
            )
        if not np.isfinite(actions).all():
            raise ValueError("actions hold values that are not finite")
        pictures = np.repeat(self._frames[:, None], steps // self.render_every, axis=1)
        hands = np.stack([np.repeat(env.state[None, :3], steps, axis=0) for env in self.envs[:count]])
        executed = np.zeros_like(actions)
        for b, env in enumerate(self.envs[:count]):
            if self._done[b] or (active is not None and not active[b]):
                continue
            for t in range(steps):
                done, _, info = env.step(actions[b, t])
                executed[b, t] = actions[b, t]
                hands[b, t:] = info.hand
                if done or (t + 1) % self.render_every == 0:
                    pictures[b, t // self.render_every :] = env.render()
                if done:
                    self._done[b] = True
                    break
        self._frames = pictures[:, -1].copy()
        return ChunkResult(
            frames=pictures, executed=executed, hands=hands, done=self._done.copy(), success=self.successes
        )

    @property
    def successes(self) -> np.ndarray:
        """Whether each episode has succeeded, bool [B]."""
        return np.array([env.success for env in self.envs[: self._active]])

    @property
    def ways(self) -> np.ndarray:
        """The way each episode has taken so far, int [B]; -1 for none."""
        return np.array([env.way() for env in self.envs[: self._active]])

    @property
    def all_done(self) -> bool:
        """Whether every episode is over."""
        return bool(self._done.all())
