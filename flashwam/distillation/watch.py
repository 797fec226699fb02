# SPDX-License-Identifier: Apache-2.0
"""Conditions on a device that must hold, looked at without making the host wait for the device.

A host that reads a number back waits until everything before it is computed, and the device then waits for the host's
next order. So an answer is only sent for, and looked at when the work of a further step is under way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AtOnce", "Watch"]


@dataclass(frozen=True, slots=True)
class _Answer:
    step: int
    holds: Tensor
    come: torch.cuda.Event | None
    error: Callable[[], Exception]


class Watch:
    """Conditions of the steps of a training.

    Attributes:
        step: That conditions are noted for.
    """

    def __init__(self) -> None:
        self.step = 0
        self._answers: list[_Answer] = []

    def note(self, holds: Tensor, error: Callable[[], Exception]) -> None:
        """Sends for an answer.

        Args:
            holds: Bool [], of any device.
            error: Makes what is raised where it is false; it should hold on to nothing large.
        """
        holds, come = holds.detach(), None
        if holds.is_cuda:
            sent = torch.empty((), dtype=torch.bool, pin_memory=True)
            sent.copy_(holds, non_blocking=True)
            come = torch.cuda.Event()
            come.record(torch.cuda.current_stream(holds.device))
            holds = sent
        self._answers.append(_Answer(self.step, holds, come, error))

    def look(self, *, before: int | None = None) -> None:
        """Looks at the answers of all steps, or of those before one, in the order in which they were asked for.

        Raises:
            Exception: the first condition's that does not hold; nothing of any step is watched any more then.
        """
        due = [answer for answer in self._answers if before is None or answer.step < before]
        self._answers = self._answers[len(due) :]
        for answer in due:
            if answer.come is not None:
                answer.come.synchronize()
            # By the memory itself: asking torch for a number is what makes a device wait.
            if not bool(answer.holds.cpu().numpy()):
                self._answers.clear()
                raise answer.error()


class AtOnce(Watch):
    """Looks at every condition when it is noted, for losses that are asked for outside of a training."""

    def note(self, holds: Tensor, error: Callable[[], Exception]) -> None:
        """See `Watch.note`.

        Raises:
            Exception: the condition does not hold.
        """
        super().note(holds, error)
        self.look()
