# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from flashwam.core.checks import UnsoundError, check_drawn, check_number, check_statistics
from flashwam.core.edm import EDMSchedule
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.core.vp import VPSchedule

SENSELESS = (math.nan, math.inf, -math.inf, 1e30, -1e30, -1.0, "5", True, None)


@pytest.mark.parametrize("value", [*SENSELESS, 0, 0.0, 1e-300])
def test_a_number_that_makes_no_sense_is_refused_wherever_a_stream_is_described(value):
    for make in (
        lambda: NoiseSchedule(value),
        lambda: VPSchedule(snr_shift=value),
        lambda: EDMSchedule(sigma_data=value),
        lambda: EDMSchedule(scale=value),
        lambda: EDMSchedule(s_min=value),
        lambda: StreamSpec.from_config("video", {"schedule": {"name": "shift", "shift": value}}),
        lambda: StreamSpec.from_config("video", {"shift": 5.0, "consistency": {"name": "lcm", "sigma_data": value}}),
        lambda: StreamSpec.from_config("video", {"shift": 5.0, "huber_c": value}),
    ):
        with pytest.raises(ValueError, match="must be positive, from"):
            make()


@pytest.mark.parametrize("value", [value for value in SENSELESS if value is not None])
@pytest.mark.parametrize("key", ["guidance_scale", "weight", "regulariser"])
def test_a_scale_that_makes_no_sense_is_refused_by_stream_and_field(key, value):
    with pytest.raises(ValueError, match=f"stream 'video': {key} must be from 0 to"):
        StreamSpec.from_config("video", {"shift": 5.0, key: value})


@pytest.mark.parametrize("pair", [(1e30, 1e30), (0, math.inf), (math.nan, 3), (3, 2), (-1, 2), (1,)])
def test_a_range_of_guidance_that_makes_no_sense_is_refused(pair):
    with pytest.raises(ValueError, match="stream 'video': guidance must be"):
        StreamSpec.from_config("video", {"shift": 5.0, "guidance": list(pair)})


@pytest.mark.parametrize("count", [0, 1.5, 1.0, True, "2", 10**9])
@pytest.mark.parametrize("key", ["steps", "teacher_steps", "anchors", "teacher_substeps"])
def test_a_count_that_is_none_is_refused(key, count):
    with pytest.raises(ValueError, match=f"stream 'video': {key} must be whole"):
        StreamSpec.from_config("video", {"shift": 5.0, key: count})


@pytest.mark.parametrize(
    ("mean", "std"), [((0, math.nan), (1, 1)), ((0, 0), (1, 0)), ((0, 0), (1, -1)), ((0, 1e30), (1, 1))]
)
def test_statistics_name_the_first_bad_channel(mean, std):
    with pytest.raises(ValueError, match=r"latents_(mean|std) of channel 1 must be"):
        check_statistics(mean, std, channels=2, what="latents_")
    check_statistics((0, -2.5), (1, 0.3), channels=2)
    with pytest.raises(ValueError, match="one entry for each of 3 channels; got 2"):
        check_statistics((0, 0), (1, 1), channels=3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_drawn_value_that_is_not_finite_is_named_by_chunk_stream_and_channel(value, dtype):
    x = torch.zeros(2, 5, 3, 4, 1, dtype=dtype)
    check_drawn(x, "action", chunk=1)
    x[1, 4], x[1, 3, 2, 1] = value, value
    with pytest.raises(UnsoundError, match=f"chunk 7: stream 'action', channel 3 must be a finite number; got {value}"):
        check_drawn(x, "action", chunk=7)
    with pytest.raises(UnsoundError, match="channel 4"):
        check_drawn(x, "action", chunk=7, limit=10, channels=(4, 0))


def test_a_limit_is_for_the_channels_that_are_used():
    x = torch.zeros(1, 4, 2, 2, 1)
    x[0, 2, 1, 1] = -10.5
    check_drawn(x, "action", chunk=1)
    check_drawn(x, "action", chunk=1, limit=10, channels=(0, 1, 3))
    with pytest.raises(UnsoundError, match=r"channel 2 must be within 10 of 0.*got -10\.5"):
        check_drawn(x, "action", chunk=1, limit=10, channels=(3, 2))


def test_a_number_may_stand_on_its_bounds():
    for value in (1e-3, 1e3, 1):
        check_number("shift", value, low=1e-3, high=1e3)
