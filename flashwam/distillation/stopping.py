# SPDX-License-Identifier: Apache-2.0
"""A training that is asked to stop, by Ctrl-C or SIGTERM, first keeps what it has done."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator

__all__ = ["StopSignals", "Stopped"]

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A training ended because a signal asked it to, after it had saved a checkpoint.

    Attributes:
        status: What a command that was ended by that signal exits with: 130 or 143.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class StopSignals:
    """While open, the first SIGINT or SIGTERM is noted; a second one ends the process at once, as without this.

    Only Python's main thread can listen to signals; opened in another one it does nothing, and a signal that the
    process ignores stays ignored.

    Attributes:
        received: Number of the signal that came; 0 while there is none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        logger.warning(
            "%s: this step is finished and a checkpoint saved; a second signal ends at once",
            signal.Signals(number).name,
        )

    def agreed(self, accelerator: Accelerator) -> int:
        """The signal that any process has received, the same answer in all of them, which must ask together; or 0."""
        if accelerator.num_processes == 1:
            return self.received
        number = torch.tensor([self.received], device=accelerator.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number)
