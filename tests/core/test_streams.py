# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest

from flashwam.core.consistency import LCM
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec, make_schedule
from flashwam.core.vp import VPSchedule


def test_round_trip_through_plain_values():
    spec = StreamSpec(name="video", schedule=NoiseSchedule(5.0), consistency=LCM(0.4), guidance=(2.0, 10.0), steps=2)
    assert StreamSpec.from_config("video", spec.config) == spec


def test_a_temperature_is_told_where_it_is_not_one():
    """So what earlier versions wrote stays as it is."""
    assert not {"temperature", "teacher_temperature"} & set(StreamSpec.from_config("video", {"shift": 5.0}).config)
    spec = StreamSpec.from_config("video", {"shift": 5.0, "temperature": 0.0, "teacher_temperature": 0.5})
    assert (spec.config["temperature"], spec.config["teacher_temperature"]) == (0.0, 0.5)
    assert StreamSpec.from_config("video", spec.config) == spec


def test_spec_is_frozen():
    spec = StreamSpec.from_config("action", {"shift": 1.0})
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.steps = 3


@pytest.mark.parametrize(
    "change",
    [{"anchors": 0}, {"anchors": 1001}, {"teacher_substeps": 0}, {"huber_c": 0}, {"weight": -1}, {"steps": 0},
     {"guidance": [3, 2]}, {"regulariser": -0.1}, {"temperature": -1}, {"teacher_temperature": 11}],
)  # fmt: skip
def test_values_out_of_range_are_refused_with_stream_and_field(change):
    (key,) = change
    with pytest.raises(ValueError, match=f"stream 'video': {key} must be"):
        StreamSpec.from_config("video", {"shift": 5.0, **change})


def test_unknown_field_is_refused():
    with pytest.raises(ValueError, match="unknown \\['anchor'\\]"):
        StreamSpec.from_config("video", {"shift": 5.0, "anchor": 3})


@pytest.mark.parametrize("schedule", [NoiseSchedule(0.05), VPSchedule(snr_shift=3.0), VPSchedule(2, 1e-4, 0.02)])
def test_every_schedule_survives_plain_values(schedule):
    config = StreamSpec(name="video", schedule=schedule).config
    assert StreamSpec.from_config("video", config).schedule == schedule
    assert make_schedule(schedule.config) == schedule
    assert ("shift" in config) == isinstance(schedule, NoiseSchedule)
    assert ("schedule" in config) == isinstance(schedule, VPSchedule)


def test_a_shift_has_a_long_form_and_a_schedule_a_label():
    long = StreamSpec.from_config("video", {"schedule": {"name": "shift", "shift": 5.0}})
    assert long == StreamSpec.from_config("video", {"shift": 5.0})
    assert long.config["shift"] == 5.0
    assert make_schedule("vp") == VPSchedule()
    assert [s.label for s in (NoiseSchedule(5.0), VPSchedule(3.0))] == ["shift 5", "vp, SNR shift 3"]


@pytest.mark.parametrize(
    ("config", "told"),
    [({}, "got neither"), ({"shift": 5.0, "schedule": "vp"}, "got shift and schedule"),
     ({"schedule": "vpp"}, "unknown schedule 'vpp'"), ({"schedule": {"name": "vp", "snr": 3}}, "'vp' takes \\['snr_sh"),
     ({"schedule": "shift"}, "takes \\['shift'\\]"), ({"schedule": {"name": "vp", "snr_shift": -1}}, "snr_shift must")],
)  # fmt: skip
def test_a_schedule_is_given_once_and_correctly(config, told):
    with pytest.raises(ValueError, match=f"stream 'video': .*{told}"):
        StreamSpec.from_config("video", config)
