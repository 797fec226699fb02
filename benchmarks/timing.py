# SPDX-License-Identifier: Apache-2.0
"""Clocks, spreads and memory, the same for every benchmark; what was not measured is said to be so."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flashwam.serve.latency import percentiles
from flashwam.system.stage_clock import stage_clock

__all__ = ["NOT_MEASURED", "Clock", "Replayed", "forget_peak", "peak_bytes", "seconds_of", "shown", "spread"]

NOT_MEASURED = "not measured"


class Clock:
    """Seconds since the last call, after the device has finished."""

    def __init__(self, device: torch.device) -> None:
        self.last, self._now = 0.0, stage_clock(device)

    def __call__(self) -> float:
        now = self._now()
        passed, self.last = now - self.last, now
        return passed


class Replayed:
    """A function of tensors that is recorded once and then replayed, with other values at the same addresses.

    On a GPU the recording is a CUDA graph. A CPU has none: there the function is called anew on the same tensors, which
    is what a replay computes.

    Args:
        function: Tensors -> a tensor. Its shapes must not change and nothing in it may wait for the device.
        inputs: The first values.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        self._function, self._inputs = function, [x.clone() for x in inputs]
        self._graph: torch.cuda.CUDAGraph | None = None
        if not self._inputs[0].is_cuda:
            return
        with torch.cuda.device(self._inputs[0].device):
            self._record()

    def _record(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._function(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=side):
            self._output = self._function(*self._inputs)

    def __call__(self, *values: Tensor) -> Tensor:
        """The function's result; the next call overwrites it."""
        for own, value in zip(self._inputs, values, strict=True):
            own.copy_(value)
        if self._graph is None:
            return self._function(*self._inputs)
        self._graph.replay()
        return self._output


def seconds_of(function: Callable[[], Any], device: torch.device, *, times: int = 5) -> float:
    """Least seconds of a call: on a GPU captured, so that no launch is counted."""

    def kept() -> Tensor:
        function()
        return torch.empty(0, device=device)

    replayed = Replayed(lambda _: kept(), [torch.empty(0, device=device)])
    nothing, clock, best = torch.empty(0, device=device), Clock(device), float("inf")
    each = 4 if device.type == "cuda" else 1
    for _ in range(times + 1):
        clock()
        for _ in range(each):
            replayed(nothing)
        best = min(best, clock() / each)
    return best


def spread(values: Sequence[float]) -> dict[str, float]:
    """Count, median, and the values below which a twentieth and nineteen twentieths lie."""
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": percentiles(ordered)["p50"],
        "p5": ordered[-(-len(ordered) * 5 // 100) - 1],
        "p95": percentiles(ordered)["p95"],
    }


def forget_peak(device: torch.device) -> None:
    """Begins to look for the most memory anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes of tensors on the device since `forget_peak`; None on a CPU, which does not count them."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def shown(value: float | None, form: str = ".1f", *, scale: float = 1.0) -> str:
    """A number for a table, or that it was not measured."""
    return NOT_MEASURED if value is None else f"{value * scale:{form}}"
