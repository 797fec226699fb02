# SPDX-License-Identifier: Apache-2.0
"""The clock of a world that does not wait."""

import pytest

from flashwam.sim.pace import Pace


def test_a_latency_passes_in_whole_controls():
    assert [Pace(latency_ms=ms).controls for ms in (0, 0.1, 12.5, 12.6, 348)] == [0, 1, 1, 2, 28]
    assert Pace(latency_ms=348, control_hz=20).controls == 7


def test_a_robot_that_goes_on_looks_whole_frames_before_the_end_and_never_before_it_has_seen_one():
    pace = Pace(latency_ms=62.5, meanwhile="go_on")
    assert [pace.under_way(frames, 4) for frames in (1, 2, 3, 4)] == [0, 1, 2, 2]
    assert Pace(latency_ms=8100, meanwhile="go_on").under_way(4, 4) == 3
    assert Pace(latency_ms=0, meanwhile="go_on").under_way(4, 4) == 0
    assert Pace(latency_ms=62.5).under_way(4, 4) == 0


def test_patience_lengthens_an_episode():
    assert [Pace(patience=factor).limit(92) for factor in (1, 0.5, 2.5)] == [92, 46, 230]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency_ms": -1}, "milliseconds, 0 or more; got -1"),
        ({"latency_ms": float("nan")}, "milliseconds"),
        ({"control_hz": 0}, "control_hz must be above 0"),
        ({"patience": float("inf")}, "patience must be above 0"),
        ({"meanwhile": "wait"}, "one of hold, go_on; got 'wait'"),
    ],
)
def test_a_clock_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Pace(**options)
