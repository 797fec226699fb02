# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest

from flashwam.core.consistency import LCM
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec


def test_round_trip_through_plain_values():
    spec = StreamSpec(name="video", schedule=NoiseSchedule(5.0), consistency=LCM(0.4), guidance=(2.0, 10.0), steps=2)
    assert StreamSpec.from_config("video", spec.config) == spec


def test_spec_is_frozen():
    spec = StreamSpec.from_config("action", {"shift": 1.0})
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.steps = 3


@pytest.mark.parametrize(
    "change",
    [{"anchors": 0}, {"anchors": 1001}, {"teacher_substeps": 0}, {"huber_c": 0}, {"weight": -1}, {"steps": 0},
     {"guidance": [3, 2]}, {"regulariser": -0.1}],
)  # fmt: skip
def test_values_out_of_range_are_refused_with_stream_and_field(change):
    (key,) = change
    with pytest.raises(ValueError, match=f"stream 'video': {key} must be"):
        StreamSpec.from_config("video", {"shift": 5.0, **change})


def test_unknown_field_is_refused():
    with pytest.raises(ValueError, match="unknown \\['anchor'\\]"):
        StreamSpec.from_config("video", {"shift": 5.0, "anchor": 3})
