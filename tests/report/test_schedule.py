# SPDX-License-Identifier: Apache-2.0
import json
import math
from dataclasses import dataclass

import pytest
import torch

from flashwam.commands.analyze import analysis_lines
from flashwam.core.consistency import LCM, ConsistencyFunction, Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.core.unit_amplitude import UnitAmplitude
from flashwam.core.vp import VPSchedule
from flashwam.report.schedule import function_label, schedule_analysis, starved_share


@dataclass(frozen=True)
class Cubic(ConsistencyFunction):
    gain: float = 1.0

    def a(self, sigma):
        return torch.ones_like(sigma)

    def b(self, sigma):
        return -self.gain * sigma**3


@dataclass(frozen=True)
class Dead(ConsistencyFunction):
    """Lets no gradient through at low noise."""

    def a(self, sigma):
        return torch.ones_like(sigma)

    def b(self, sigma):
        return -(sigma - 0.05).clamp(min=0)


def spec(name, shift, consistency="linear", **rest):
    return StreamSpec.from_config(name, {"shift": shift, "consistency": consistency, **rest})


def published(action_shift=1.0, action="linear"):
    return {"video": spec("video", 5.0, "lcm"), "action": spec("action", action_shift, action)}


def test_known_values_of_the_published_schedules():
    streams = schedule_analysis(published())["streams"]
    assert streams["video"]["median"] == pytest.approx(5 / 6)
    assert streams["action"]["median"] == pytest.approx(1 / 2)
    assert streams["video"]["functions"]["lcm"]["median_over_low_noise"] == pytest.approx(36.44, abs=5e-3)
    squares = {(n, f): v["mean_squared_gradient_scale"] for n, s in streams.items() for f, v in s["functions"].items()}
    assert squares == pytest.approx(
        {("video", "lcm"): 0.114, ("video", "linear"): 0.617, ("action", "lcm"): 0.055, ("action", "linear"): 1 / 3},
        abs=7e-4,
    )
    assert streams["video"]["functions"]["lcm"]["order_at_zero"] == pytest.approx(2, abs=1e-6)
    assert streams["action"]["mass_below_low_noise"] == pytest.approx(0.1)
    assert streams["video"]["functions"]["linear"]["mean_gradient_scale"] == pytest.approx(
        5 / 4 * (1 - math.log(5) / 4), abs=1e-9
    )


@pytest.mark.parametrize("shift", [5.0, 1.0, 0.05])
def test_starved_share_equals_the_closed_form(shift):
    # c_out(sigma) = 0.1 at sigma^2 = 0.01 d^2 / (d^2 - 0.01).
    schedule = NoiseSchedule(shift)
    assert starved_share(LCM(), schedule) == pytest.approx(
        schedule.cdf(math.sqrt(0.01 * 0.25 / (0.25 - 0.01))), abs=2e-5
    )
    assert starved_share(Linear(), schedule) == 0


def test_the_verdict_is_strong_where_the_ratio_is_and_modest_where_it_is_not():
    strong = schedule_analysis(published(0.05))["streams"]["action"]["verdict"]
    assert strong["choice"] == "linear"
    assert strong["lcm_times_less_than_reference"] == pytest.approx(21.9, abs=0.05)
    assert "lcm would give 22 times less gradient than video gets" in strong["reason"]

    modest = schedule_analysis(published(1.0))["streams"]["action"]["verdict"]
    assert modest["choice"] == "linear"
    assert modest["lcm_times_less_than_reference"] == pytest.approx(2.05, abs=0.005)
    assert "modest" in modest["reason"]
    assert "does not explain a collapse" in modest["reason"]


@pytest.mark.parametrize(("snr_shift", "median"), [(1.0, 0.638739), (3.0, 0.754251)])
def test_streams_on_one_variance_preserving_path_need_no_choice_each(snr_shift, median):
    schedule = {"name": "vp", "snr_shift": snr_shift}
    streams = {name: StreamSpec.from_config(name, {"schedule": schedule}) for name in ("video", "action")}
    analysis = schedule_analysis(streams)
    video, action = analysis["streams"].values()
    for key in ("label", "median", "mass_below_low_noise", "density", "functions", "jump_levels"):
        assert video[key] == action[key]
    assert video["median"] == pytest.approx(median, abs=5e-7)
    assert video["mass_below_low_noise"] < 0.05
    # The published sigma_i themselves, in the trapezoids that a piecewise linear sigma(u) makes exact.
    table = torch.cat([torch.zeros(1, dtype=torch.float64), VPSchedule(snr_shift).training_grid().flip(0)])
    squares = float(((table[1:] ** 2 + table[1:] * table[:-1] + table[:-1] ** 2) / 3).mean())
    assert video["functions"]["linear"]["mean_squared_gradient_scale"] == pytest.approx(squares, abs=1e-12)
    assert video["functions"]["lcm"]["order_at_zero"] == pytest.approx(2, abs=1e-6)
    together = analysis["together"]
    assert (together["matters"], together["distance"], together["spread"]) == (False, 0, {"lcm": 1, "linear": 1})
    assert together["reason"].startswith(f"No. video and action draw from one schedule (vp, SNR shift {snr_shift:g}; ")
    assert "10 times less at sigma 0.1" in together["reason"]
    assert any("(alpha + s)" in note for note in analysis["notes"])


def test_a_stream_is_not_set_against_one_that_draws_alike():
    streams = schedule_analysis({"video": spec("video", 1.0), "action": spec("action", 1.0)})["streams"]
    assert streams["action"]["verdict"]["reason"] == streams["video"]["verdict"]["reason"]
    assert "than video gets" not in streams["action"]["verdict"]["reason"]


def test_streams_on_different_schedules_are_compared():
    together = schedule_analysis(published())["together"]
    assert together["matters"]
    # The largest gap between u(sigma) at shifts 1 and 5 is at sigma = (5 - sqrt 5) / 4.
    low = (5 - math.sqrt(5)) / 4
    assert together["distance"] == pytest.approx(low - low / (5 - 4 * low), abs=1e-6)
    assert together["accepted"] == ["linear"]
    assert together["spread"] == pytest.approx({"lcm": 2.05, "linear": 1.853}, abs=5e-3)
    assert "fits video and starves action" in together["reason"]
    both_noisy = schedule_analysis({"video": spec("video", 5.0), "action": spec("action", 4.0)})["together"]
    assert (both_noisy["matters"], both_noisy["accepted"]) == (False, ["lcm", "linear"])
    both_clean = schedule_analysis({"video": spec("video", 1.0), "action": spec("action", 0.5)})["together"]
    assert (both_clean["matters"], both_clean["accepted"]) == (False, ["linear"])
    assert schedule_analysis({"video": spec("video", 5.0)})["together"] is None


@pytest.mark.parametrize(
    ("anchors", "substeps", "method", "biased"),
    [
        (1, 1, "consistency", True),
        (2, 1, "consistency", True),
        (2, 4, "consistency", False),
        (8, 1, "consistency", False),
        (1, 1, "pairs", False),
        (1, 1, "on_policy", False),
    ],
)
def test_a_target_that_a_single_step_makes_is_told_whatever_the_number_of_jumps(anchors, substeps, method, biased):
    streams = {"action": spec("action", 1.0, anchors=anchors, teacher_substeps=substeps)}
    told = [note for note in schedule_analysis(streams, method=method)["notes"] if "in a single Euler step" in note]
    assert bool(told) is biased


def test_a_noisy_stream_is_reached_by_lcm_and_starts_right_with_linear():
    verdict = schedule_analysis(published())["streams"]["video"]["verdict"]
    assert verdict["choice"] == "linear"
    assert verdict["accepted"] == ["lcm", "linear"]
    assert "lcm answers 0.45 x0 + 0.20 eps at sigma = 1 where linear answers x0" in verdict["reason"]


def test_a_recipe_against_the_verdict_is_warned_and_one_with_it_is_not():
    assert schedule_analysis(published())["warnings"] == []
    (warning,) = schedule_analysis(published(action="lcm"))["warnings"]
    assert warning.startswith("action: this recipe uses lcm, the analysis says linear: 10%")


def test_plain_euler_is_warned_for_streams_it_does_not_fit():
    (warning,) = schedule_analysis(published(), sampler="euler")["warnings"]
    assert warning.startswith("video: trained with lcm, f at sigma = 1 is 0.647 x -0.447 v")
    assert "0.353 x -0.553 v" in warning


def test_a_stream_without_weight_is_said_to_be_left_alone():
    streams = {"video": spec("video", 5.0, "lcm"), "action": spec("action", 0.05, "lcm", weight=0.0)}
    analysis = schedule_analysis(streams)
    assert analysis["warnings"] == []
    assert any(note.startswith("action: weight 0") for note in analysis["notes"])


def test_own_functions_are_analysed_beside_the_known_ones():
    streams = {"action": StreamSpec(name="action", schedule=NoiseSchedule(1.0), consistency=Cubic())}
    analysis = schedule_analysis(streams)
    own = analysis["streams"]["action"]["functions"]["Cubic(gain=1)"]
    assert own["order_at_zero"] == pytest.approx(3, abs=1e-6)
    assert own["mean_squared_gradient_scale"] == pytest.approx(1 / 7, abs=1e-9)
    assert own["starved_share"] == pytest.approx(math.sqrt(0.1), abs=2e-5)
    assert any("Cubic" in warning for warning in analysis["warnings"])


def test_a_function_without_gradient_at_low_noise_has_no_order_there():
    streams = {"action": StreamSpec(name="action", schedule=NoiseSchedule(1.0), consistency=Dead())}
    analysis = schedule_analysis(streams)
    assert analysis["streams"]["action"]["functions"]["Dead"]["order_at_zero"] is None
    json.dumps(analysis, allow_nan=False)
    (line,) = [line for line in analysis_lines(analysis) if "*Dead" in line]
    assert line.endswith("     -")


def test_labels_name_parameters_that_differ_from_the_published_ones():
    assert [function_label(f) for f in (LCM(), LCM(0.2), Linear())] == ["lcm", "lcm(sigma_data=0.2)", "linear"]
    assert function_label(UnitAmplitude({"name": "lcm"})).startswith("UnitAmplitude(function={'name': 'lcm'")


def test_the_analysis_is_plain_json():
    analysis = schedule_analysis(published())
    assert json.loads(json.dumps(analysis, allow_nan=False)) == analysis


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="at least one stream"):
        schedule_analysis({})
    with pytest.raises(ValueError, match="sampler must be"):
        schedule_analysis(published(), sampler="heun")
