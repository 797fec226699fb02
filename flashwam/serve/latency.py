# SPDX-License-Identifier: Apache-2.0
"""The milliseconds of requests: per request and stage, counts and percentiles.

Stages: decode (of the message), wait (for other sessions), text, vae, one per stream, cache, total. Without a
synchronising device a stream's time is its own; on a GPU what is still queued falls to the next stage, and only total
is exact.
"""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["LatencyLog", "percentiles"]

_KEPT = 4096


class LatencyLog:
    """Times of requests by stage. Thread-safe; percentiles are of the latest 4096 values of each stage."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[str, deque[float]]] = {}
        self._counts: dict[str, int] = {}

    def add(self, request: str, stages: Mapping[str, float]) -> None:
        """Notes one request: stage -> milliseconds."""
        with self._lock:
            self._counts[request] = self._counts.get(request, 0) + 1
            kept = self._values.setdefault(request, {})
            for stage, milliseconds in stages.items():
                kept.setdefault(stage, deque(maxlen=_KEPT)).append(milliseconds)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Request -> {"count": requests, "ms": stage -> {"p50", "p95", "p99"}}."""
        with self._lock:
            return {
                request: {
                    "count": self._counts[request],
                    "ms": {stage: percentiles(values) for stage, values in stages.items()},
                }
                for request, stages in self._values.items()
            }

    def lines(self) -> list[str]:
        """The summary as text, one line per request and stage."""
        return [
            f"{request:<8} {stage:<8} "
            + " ".join(f"{name} {value:9.2f} ms" for name, value in numbers.items())
            + f"  ({summary['count']})"
            for request, summary in self.summary().items()
            for stage, numbers in summary["ms"].items()
        ]


def percentiles(values: Any) -> dict[str, float]:
    """p50, p95 and p99, each a value that occurred: the smallest that its share of the values does not exceed."""
    ordered = sorted(values)
    return {f"p{share}": ordered[-(-len(ordered) * share // 100) - 1] for share in (50, 95, 99)}
