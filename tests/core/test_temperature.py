# SPDX-License-Identifier: Apache-2.0
import pytest

from flashwam.core.temperature import noise_text, parse_temperature, temperature_of


@pytest.mark.parametrize(
    ("text", "temperature", "words"),
    [
        ("0.5", 0.5, "0.5 times the noise"),
        ("0", 0.0, "0 times the noise"),
        ("action=0.25", {"action": 0.25}, "0.25 times the noise of action"),
        (
            "video=1, action=0",
            {"video": 1.0, "action": 0.0},
            "0 times the noise of action and 1 times the noise of video",
        ),
    ],
)
def test_a_temperature_is_read_and_told(text, temperature, words):
    assert parse_temperature(text) == temperature
    assert noise_text(temperature) == words


@pytest.mark.parametrize(
    "text", ["", "warm", "action=", "=0.5", "action=0.5,", "action=0.5,action=1", "video=1;action=0"]
)
def test_what_is_no_temperature_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"expected a temperature such as 0\.5, or action=0\.5 for one stream; got"):
        parse_temperature(text)


@pytest.mark.parametrize("text", ["-1", "11", "nan", "action=inf"])
def test_one_out_of_range_is_refused_with_the_range(text):
    with pytest.raises(ValueError, match="must be a number from 0 to 10"):
        parse_temperature(text)


def test_a_stream_that_is_not_asked_for_keeps_its_own():
    assert temperature_of(None, "video", 0.7) == 0.7
    assert temperature_of(0.0, "video", 0.7) == 0.0
    assert temperature_of({"action": 0.0}, "video", 0.7) == 0.7
    assert temperature_of({"action": 0.0}, "action", 0.7) == 0.0
