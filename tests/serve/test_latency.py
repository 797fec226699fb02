# SPDX-License-Identifier: Apache-2.0
import pytest

from flashwam.serve.latency import LatencyLog, percentiles


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (range(1, 101), (50, 95, 99)),
        (reversed(range(1, 201)), (100, 190, 198)),
        ([7.5], (7.5, 7.5, 7.5)),
        ([1, 9], (1, 9, 9)),
        ([3, 1, 2], (2, 3, 3)),
    ],
)
def test_percentiles_are_nearest_ranks(values, expected):
    assert tuple(percentiles(values).values()) == expected


def test_a_log_counts_requests_and_keeps_the_latest():
    log = LatencyLog()
    for i in range(5000):
        log.add("infer", {"video": i, "total": 2 * i} | ({"vae": 1.0} if i == 0 else {}))
    summary = log.summary()
    assert summary["infer"]["count"] == 5000
    assert summary["infer"]["ms"]["vae"] == {"p50": 1.0, "p95": 1.0, "p99": 1.0}
    assert summary["infer"]["ms"]["video"]["p50"] == 5000 - 4096 + 2047
    assert len(log.lines()) == 3
    assert LatencyLog().summary() == {}
