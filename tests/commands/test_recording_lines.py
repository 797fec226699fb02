# SPDX-License-Identifier: Apache-2.0
"""Evaluations on recordings as a terminal shows them."""

import pytest

from flashwam.commands.recording_lines import recording_lines
from flashwam.run.evaluation import Evaluation
from flashwam.run.recordings import RecordingNumbers

NUMBERS = RecordingNumbers(
    windows=4,
    episodes=3,
    draws=8,
    names=("x", "gripper"),
    units=("mm", ""),
    by_control={"error_recorded": (1.5, 0.25)},
)


def lines_of(**told):
    return recording_lines(Evaluation(run="a", nfe={"video": 1}, tasks={}, **told), NUMBERS)


@pytest.mark.parametrize(
    ("latency", "line"),
    [
        ({"chunk_ms": 25.93}, "  25.9 ms a chunk"),
        (
            {"video_ms": 10.0, "action_ms": 15.5, "chunk_ms": 25.5, "part/see_ms": 3.0},
            "  25.5 ms a chunk: video 10.0, action 15.5; of them see 3.0",
        ),
        ({"chunk_ms": 25.0, "part/server_ms": 20.0}, "  25.0 ms a chunk; of them server 20.0"),
    ],
)
def test_latency_is_told_stage_by_stage(latency, line):
    assert lines_of(latency=latency)[-1] == line


def test_latents_and_pictures_are_told_apart():
    told = {"video_error_teacher": 0.0185, "video_decoded_error_teacher": 3.52, "video_decoded_error_expert": 7.04}
    assert lines_of(open_loop=told)[-2:] == [
        "  video latents: mean squared error to the teacher's 0.0185",
        "  decoded video: 3.52 grey levels of 255 from the teacher's, 7.04 from the recorded",
    ]
    sharp = lines_of(open_loop=told | {"video_decoded_sharpness_ratio": 0.9})[-1]
    assert sharp.endswith("; 0.9 times the teacher's sharpness")
    # A file of an earlier version tells another sharpness, which is not that of decoded chunks.
    assert "sharpness" not in "".join(lines_of(open_loop={"video_error_teacher": 1, "video_sharpness_ratio": 0.9}))


def test_errors_to_the_recording_are_told_without_a_teacher():
    assert any(line.split() == ["x", "[mm]", "1.5"] for line in lines_of())
