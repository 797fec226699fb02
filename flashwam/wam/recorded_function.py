# SPDX-License-Identifier: Apache-2.0
"""A function of tensors that is recorded once for every kind of arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from flashwam.wam.recording import Recording, Recordings, casts, tensors_of

__all__ = ["RecordedFunction"]

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Call:
    """Arguments of one kind at fixed addresses, and the recording over them."""

    arguments: tuple[Tensor | None, ...]
    recording: Recording

    def __call__(self, arguments: tuple[Tensor | None, ...]) -> Any:
        for own, given in zip(self.arguments, arguments, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self.recording.replay()
        return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, self.recording.result)


class RecordedFunction:
    """Runs a model's function of tensors from recordings.

    Args:
        recordings: Makes them.

    Attributes:
        recordings: Those of the model.
    """

    def __init__(self, recordings: Recordings | None = None) -> None:
        self.recordings = recordings or Recordings()
        self._calls: dict[object, _Call | None] = {}
        self._weights: list[Tensor] = []

    def __deepcopy__(self, memo: Any) -> "RecordedFunction":
        """None of the recordings: they run the model that this was made for."""
        return RecordedFunction(self.recordings.__deepcopy__(memo))

    def begin(self, model: nn.Module) -> None:
        """Begins a session: what was recorded over weights that have moved since is forgotten."""
        weights = tensors_of(model)
        if [p.data_ptr() for p in weights] != [p.data_ptr() for p in self._weights]:
            self._calls.clear()
        # Held, so that what a recording reads is never someone else's memory.
        self._weights = weights

    def __call__(
        self, function: Function, *arguments: Tensor | None, compiled: Function | None = None, **named: Tensor | None
    ) -> Any:
        """Calls the model's function; without gradient.

        Args:
            function: It; its results may depend on nothing but the arguments and the model's weights.
            arguments, named: Of it.
            compiled: The same function by a compiler, which is recorded in its place where it can be.
        """
        names, given = tuple(named), (*arguments, *named.values())

        def call(function: Function, *values: Tensor | None) -> Any:
            count = len(arguments)
            return function(*values[:count], **dict(zip(names, values[count:], strict=True)))

        key = (names, *(None if x is None else (x.shape, x.dtype, x.device, casts(x.device)) for x in given))
        if key not in self._calls:
            self._calls[key] = self._record(
                partial(call, function), given, compiled=None if compiled is None else partial(call, compiled)
            )
        recorded = self._calls[key]
        return call(function, *given) if recorded is None else recorded(given)

    def _record(self, call: Function, given: tuple[Tensor | None, ...], *, compiled: Function | None) -> _Call | None:
        with torch.inference_mode(False):
            own = tuple(None if x is None else x.clone() for x in given)
        by_compiler = None if compiled is None else partial(compiled, *own)
        recording = self.recordings.record(partial(call, *own), compiled=by_compiler)
        return None if recording is None else _Call(own, recording)
