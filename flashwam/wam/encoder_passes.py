# SPDX-License-Identifier: Apache-2.0
"""An autoencoder's encoder as a function of tensors: as it is, compiled, or compiled and recorded."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flashwam.system.errors import InputError
from flashwam.wam.recorded_function import RecordedFunction
from flashwam.wam.recording import CannotRecordError, Recorder, Recordings

__all__ = ["ENCODERS", "EncoderPasses"]

logger = logging.getLogger(__name__)

ENCODERS = ("plain", "compiled", "graphed")


class EncoderPasses:
    """Runs an encoder the chosen way; what cannot be compiled or recorded is run all the same, and a warning says why.

    Args:
        model: The encoder.
        function: Tensors, or None, to a tensor or a tuple of them; it depends on them and the model's weights alone.
        way: "plain", "compiled", or "graphed", which records what is compiled.
        recorder: For "graphed"; CUDA graphs if None, which need the model on a GPU.
        options: For `torch.compile`.

    Attributes:
        way: As chosen.

    Raises:
        ValueError: The way is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        function: Callable[..., Any],
        way: str = "plain",
        *,
        recorder: Recorder | None = None,
        **options: Any,
    ) -> None:
        if way not in ENCODERS:
            raise InputError(f"encoder must be one of {', '.join(ENCODERS)}; got {way!r}")
        self.way = way
        self._model, self._function = model, function
        self._compiled: Callable[..., Any] | None = None
        if way != "plain":
            self._compiled = torch.compile(function, dynamic=False, fullgraph=True, **options)
        self._recorded = RecordedFunction(Recordings(recorder, of="encoder", user="it"))
        self._records = False

    @property
    def recorded(self) -> int:
        """Kinds of passes recorded so far."""
        return self._recorded.recordings.count

    def begin(self) -> None:
        """Begins an episode; where nothing can be recorded, a warning says why."""
        if self.way != "graphed":
            return
        recordings = self._recorded.recordings
        try:
            recordings.check(next(self._model.parameters()).device, self._model)
            self._recorded.begin(self._model)
            self._records = True
        except CannotRecordError as error:
            recordings.say(error)
            self._records = False

    def __call__(self, *tensors: Tensor | None) -> Any:
        """The function's result; without gradient."""
        if self.way == "compiled":
            return self._run(*tensors)
        return self._recorded(self._run, *tensors) if self._records else self._function(*tensors)

    def _run(self, *tensors: Tensor | None) -> Any:
        if self._compiled is not None:
            try:
                return self._compiled(*tensors)
            except torch.OutOfMemoryError:
                # It says nothing of what was compiled: memory may be there for the next picture.
                raise
            except Exception as error:
                # A compiler says first who failed, and then how.
                told = " ".join(str(error).split("\n", 2)[:2]) or "no more is known"
                logger.warning(
                    "encoder %r: it runs as it is, not compiled (%s: %s)", self.way, type(error).__name__, told
                )
                self._compiled = None
        return self._function(*tensors)
