# SPDX-License-Identifier: Apache-2.0
"""Checks at the start of a training for faults that would look like others later."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flashwam.distillation.methods.base import NonFiniteError, StreamTerm
from flashwam.system.errors import InputError

__all__ = ["EmptyMasks", "check_weights"]

logger = logging.getLogger(__name__)


def check_weights(model: nn.Module, role: str) -> None:
    """Looks whether every parameter is finite.

    Args:
        model: As it was loaded or made.
        role: Of it, for the message.

    Raises:
        NonFiniteError: one is not; names it and says that it is the weights that are bad.
    """
    bad = {name: _count(p) for name, p in model.named_parameters() if not _is_finite(p.detach())}
    if bad:
        name, (nans, infinite) = next(iter(bad.items()))
        holds = " and ".join([f"{nans} NaN"] * bool(nans) + [f"{infinite} infinite numbers"] * bool(infinite))
        more = f" ({len(bad)} such tensors)" if len(bad) > 1 else ""
        raise NonFiniteError(
            f"the {role}'s weights are bad before the first step: {name!r} holds {holds}{more}; take another copy or "
            "checkpoint of them, neither data nor lr are the reason"
        )


def _is_finite(value: Tensor) -> bool:
    # A sum is one pass without a copy; it may overflow where no number is infinite.
    if not value.is_floating_point() or bool(torch.isfinite(value.sum())):
        return True
    return bool(torch.isfinite(value).all())


def _count(value: Tensor) -> tuple[int, int]:
    return int(torch.isnan(value).sum()), int(torch.isinf(value).sum())


class EmptyMasks:
    """Watches the first steps for streams whose masks leave nothing to learn.

    Args:
        steps: How long.
    """

    def __init__(self, steps: int = 10) -> None:
        self.steps = steps
        self._seen: dict[str, bool] = {}
        self._first: int | None = None

    def look(self, terms: Mapping[str, StreamTerm], step: int) -> None:
        """Takes note of one batch; after the last one that is watched, warns of streams that never had a loss.

        Raises:
            ValueError: no stream ever had one.
        """
        if self._first is None:
            self._first = step
        if step - self._first >= self.steps or (self._seen and all(self._seen.values())):
            return
        for name, term in terms.items():
            self._seen[name] = self._seen.get(name, False) or bool(term.frame_mask.any())
        empty = [name for name, seen in self._seen.items() if not seen]
        if step - self._first < self.steps - 1 or not empty:
            return
        listed = ", ".join(repr(name) for name in empty)
        if len(empty) == len(self._seen):
            raise InputError(
                f"nothing is learned: the masks of {listed} were empty in every sample of {self.steps} steps; look at "
                "the data's masks (actions that are all padding, no used channels) and the model's predicted channels"
            )
        logger.warning(
            "stream %s learns nothing: its masks were empty in every sample of %d steps; look at the data, or set its "
            "weight to 0",
            listed,
            self.steps,
        )
