# SPDX-License-Identifier: Apache-2.0
"""The way of the right answer up from the data, by targets that follow the student late."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods.base import Method
from flashwam.recipe.sections import LoopConfig

__all__ = ["Following", "late_streams"]

_ENOUGH = 0.99
_HARDLY = 0.5
"""With a smaller share arriving, a training ends before the levels of the sampler have been reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """A training whose targets are an exponential average of its student.

    Args:
        steps: Of the training.
        decay: Of the average, a step.
    """

    steps: int
    decay: float

    @classmethod
    def of(cls, loop: LoopConfig) -> "Following":
        """That of a recipe's loop."""
        return cls(steps=loop.steps, decay=loop.ema_decay)

    @property
    def horizons(self) -> float:
        """Times that the average's horizon goes into the training."""
        return self.steps * (1 - self.decay)

    def arrived(self, hops: int) -> float:
        """Share of a change at the data that has come up `hops` targets by the end of the training, at the most.

        The first target is the data's own. Every further one is read off the average, which lags behind the student by
        its horizon. Of a step at the foot of a chain of n such lags P(N >= n) has passed after as many horizons as the
        mean of the Poisson variable N, even if the student itself learns at once.
        """
        from scipy.special import gammainc

        return float(gammainc(hops - 1, self.horizons)) if hops > 1 else 1.0

    def warning(self, hops: int, sigma: float) -> str | None:
        """Warns of a level of the sampler that the right answer hardly reaches; None where it does.

        Args:
            hops: Targets in a row up to it, see `Lesson`.
            sigma: The level.
        """
        arrives = self.arrived(hops)
        if arrives >= _HARDLY:
            return None
        from scipy.special import gammaincinv

        needed = float(gammaincinv(hops - 1, _ENOUGH))
        decay = math.floor(1000 * (1 - needed / self.steps)) / 1000
        remedy = f"distill.steps={math.ceil(needed / (1 - self.decay)):,} or more"
        if decay >= 0:
            remedy = f"distill.ema_decay={decay:g} or less, {remedy}"
        return (
            f"{hops} targets in a row lead from the data up to sigma = {sigma:.2g}, where the sampler stands, all but "
            f"the first read off an average of the student whose horizon goes {self.horizons:.3g} times into the "
            f"{self.steps:,} steps: {arrives:.0%} of what is learned at the data has come up there by their end, at "
            f"any learning rate. Take {remedy}, or fewer anchors."
        )


def late_streams(
    method: type[Method], streams: Mapping[str, StreamSpec], loop: LoopConfig
) -> Iterator[tuple[str, str]]:
    """Warnings of a training before it begins: stream name and text, see `Following.warning`."""
    following = Following.of(loop)
    for name, spec in streams.items():
        if spec.weight == 0:
            continue
        for level in map(float, spec.schedule.sampling_grid(spec.steps)[:-1]):
            lesson = method.lesson(spec, level, loop.options)
            if lesson is not None and (text := following.warning(lesson.hops, level)):
                yield name, text
