# SPDX-License-Identifier: Apache-2.0
"""Errors of the foresight on held-out windows, beside three guesses that need no decouplers.

Letters: B windows, T channels of a vision model, F latent frames, h and w of the grid.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.noise import add_noise
from flashwam.distillation.futures import Future
from flashwam.distillation.methods.base import reduce_elements
from flashwam.distillation.setup import Source
from flashwam.foresight.decoupler import still
from flashwam.foresight.policy import ForesightPolicy
from flashwam.foresight.source import FutureSource
from flashwam.wam.base import WorldActionModel

__all__ = ["HeldOutForesight", "look_at"]

_SEED, _OTHER_SEED = 1_000_001, 1_000_002
"""Of the noise; those of trainings are below."""


def look_at(batch: Batch, noise: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every stream -> what is looked at, [B, C, F, H, W]: the noise [B, C, F, H, W], and the clean frame where sigma
    [B, F] is 0."""
    return {name: add_noise(x, noise[name], sigma[name]) for name, x in batch.clean.items()}


class HeldOutForesight:
    """Squared errors to what vision models see in the video that a teacher draws from the noise that is looked at.

    Per vision model four of them, as a mean over the frames that have a loss, in units of the variance of the targets
    that were trained on: `<name>_error_teacher` of the decoupler; and, the same at every step, `<name>_copy` of the
    observed frame in place of every coming one, `<name>_other_seed` of the video that the teacher draws from another
    noise, and `<name>_one_step` of the video that it draws from the same noise in one step. Whatever a training's
    targets are, these are the same, so that trainings can be compared.

    And `<name>_follows_noise`, of the decoupler, in [-1, 1]: the correlation, over the same frames, of what changes in
    its prediction with what changes in the targets where the other noise is looked at; 0 of one that ignores the noise.

    The three guesses are made once; the teacher's draws and the views of them are kept where `futures` keeps them.

    Args:
        futures: (source, maker of rollouts, seed of their noise) -> rollouts with the views of their videos, B windows.
        windows: Held-out windows.
        count: B, at least 1.
        teacher: Draws in all its steps.
        one_step: The same teacher, in one step.
        model: Its statistics and vision models.
        seen: Turns a batch into what the model is told.
        at_once: Windows that are looked at together, at least 1.
    """

    def __init__(
        self,
        futures: Callable[[Source, Future, int], FutureSource],
        windows: Source,
        *,
        count: int,
        teacher: Future,
        one_step: Future,
        model: ForesightPolicy,
        seen: Callable[[Batch], Batch],
        at_once: int,
    ) -> None:
        numbers = list(range(count))
        drawn, other, short = (
            futures(windows, future, seed).of_pool(numbers)
            for future, seed in ((teacher, _SEED), (teacher, _OTHER_SEED), (one_step, _SEED))
        )
        self._batch, self._other, self._at_once = seen(drawn), seen(other), at_once
        self._guesses: dict[str, float] = {}
        copies = self._by_parts(partial(_copies, model), model, self._batch)
        for name in model.providers:
            guesses = {
                "copy": copies[name],
                "other_seed": self._target(model, name, other),
                "one_step": self._target(model, name, short),
            }
            for guess, values in guesses.items():
                self._guesses[f"{name}_{guess}"] = self._error(model, name, values)

    def __call__(self, model: WorldActionModel) -> dict[str, float]:
        """Measures a `ForesightPolicy`: name -> error or correlation, the errors of its decouplers first."""
        assert isinstance(model, ForesightPolicy)
        foreseen, otherwise = (
            self._by_parts(lambda batch: model({}, {}, batch.history, self._context(batch)), model, windows)
            for windows in (self._batch, self._other)
        )
        errors = {f"{name}_error_teacher": self._error(model, name, x) for name, x in foreseen.items()}
        follows = {
            f"{name}_follows_noise": self._follows_noise(model, name, x - otherwise[name])
            for name, x in foreseen.items()
        }
        return errors | follows | self._guesses

    @torch.no_grad()
    def _by_parts(
        self, views: Callable[[Batch], Mapping[str, Tensor]], model: ForesightPolicy, windows: Batch
    ) -> dict[str, Tensor]:
        """Views of all windows, some at a time: vision model -> [B, T, F, h, w], standardised, on the CPU."""
        device = next(model.parameters()).device
        made: dict[str, list[Tensor]] = {name: [] for name in model.providers}
        for rows in torch.arange(windows.size).split(self._at_once):
            for name, x in views(windows.rows(rows.tolist()).to(device)).items():
                made[name].append(x.float().cpu())
        return {name: torch.cat(parts) for name, parts in made.items()}

    def _context(self, batch: Batch) -> dict[str, Any]:
        pure = torch.ones_like(batch.given, dtype=torch.float32).masked_fill(batch.given, 0.0)
        noise = {name: batch.extra[f"noise/{name}"] for name in batch.clean}
        sigma = dict.fromkeys(batch.clean, pure)
        return {"text": batch.text, "noise": look_at(batch, noise, sigma), "noise_sigma": sigma}

    def _target(self, model: ForesightPolicy, name: str, batch: Batch) -> Tensor:
        decoupler = model.decouplers[name]
        device = decoupler.mean.device
        return decoupler.standardise(batch.extra[f"target/{name}"].to(device)).cpu()

    def _error(self, model: ForesightPolicy, name: str, values: Tensor) -> float:
        elements = (values - self._target(model, name, self._batch)) ** 2
        return float(reduce_elements(elements, self._batch.loss_mask("video"))[0].mean())

    def _follows_noise(self, model: ForesightPolicy, name: str, changed: Tensor) -> float:
        should = self._target(model, name, self._batch) - self._target(model, name, self._other)
        counted = self._batch.loss_mask("video").any(1, keepdim=True).expand_as(changed)
        both = torch.stack([changed[counted], should[counted]]).double()
        return float(torch.corrcoef(both)[0, 1].nan_to_num(0.0))


def _copies(model: ForesightPolicy, batch: Batch) -> dict[str, Tensor]:
    """The views of the frame that each chunk is drawn from, in place of the chunk's own: [B, T, F, h, w]."""
    seen = model.see_before(batch.history["video"], batch.frames)
    return {name: still(x, batch.size, batch.frames) for name, x in seen.items()}
