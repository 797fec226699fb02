# SPDX-License-Identifier: Apache-2.0
import pytest

from flashwam.core.sampler_name import sampler_name, sampler_options, sampler_suffix

NAMED = {
    "own": ({}, "", ""),
    "euler": ({"plain_euler": True}, " Euler", ""),
    "unit": ({"unit_amplitude": True}, " unit amplitude", ""),
    "t0": ({"temperature": 0}, " t0", " t0"),
    "t0.5": ({"temperature": 0.5}, " t0.5", " t0.5"),
    "t1": ({"temperature": 1.0}, " t1", " t1"),
    "action-t0": ({"temperature": {"action": 0.0}}, " action-t0", " action-t0"),
    "euler_left_arm-t0.5_video-t1": (
        {"plain_euler": True, "temperature": {"video": 1.0, "left_arm": 0.5}},
        " Euler left_arm-t0.5 video-t1",
        " left_arm-t0.5 video-t1",
    ),
    "euler_t0.25": ({"plain_euler": True, "temperature": 0.25}, " Euler t0.25", " t0.25"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_stands_for_its_options_and_ends_a_label(name):
    options, student, teacher = NAMED[name]
    assert sampler_name(**options) == name
    untold = {"plain_euler": False, "unit_amplitude": False, "temperature": None}
    assert sampler_options(name) == {**untold, **options}
    assert (sampler_suffix(name, student=True), sampler_suffix(name, student=False)) == (student, teacher)


@pytest.mark.parametrize("temperature", [1e-7, 0.1 + 0.2, 1 / 3, 10])
def test_a_temperature_is_told_exactly(temperature):
    assert sampler_options(sampler_name(temperature=temperature))["temperature"] == temperature


@pytest.mark.parametrize("temperature", [-0.1, 10.5, float("inf"), float("nan")])
def test_other_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be a number from 0 to 10; got"):
        sampler_name(temperature=temperature)
    with pytest.raises(ValueError, match="temperature of action must be a number from 0 to 10; got"):
        sampler_name(temperature={"video": 1, "action": temperature})


def test_temperatures_of_no_stream_are_refused():
    with pytest.raises(ValueError, match="names no stream"):
        sampler_name(temperature={})


def test_two_samplers_at_once_are_refused():
    with pytest.raises(ValueError, match="ask for one"):
        sampler_name(plain_euler=True, unit_amplitude=True)
