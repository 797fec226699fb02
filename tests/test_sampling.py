# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch

from flashwam.core.consistency import LCM, Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.core.steps import parse_nfe
from flashwam.core.streams import StreamSpec
from flashwam.core.unit_amplitude import UnitAmplitude
from flashwam.sampling import StreamSampler, draw, samplers_for


def sampler(consistency, steps, shift=5.0):
    return StreamSampler(schedule=NoiseSchedule(shift), consistency=consistency, steps=steps)


def draw_one(velocity, x, sampler, given=None):
    """`draw` of a single stream."""
    drawn = draw(
        lambda x, sigma: {"s": velocity(x["s"], sigma["s"])},
        {"s": x},
        {"s": sampler},
        given=None if given is None else {"s": given},
    )
    return drawn["s"]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_linear_steps_are_euler_steps(steps):
    def velocity(x, sigma):
        return torch.sin(x) + sigma[:, None, :, None, None]

    x = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    euler = x
    grid = NoiseSchedule(5.0).sampling_grid(steps).float().tolist()
    for level, following in zip(grid[:-1], grid[1:], strict=True):
        euler = euler + velocity(euler, torch.full((2, 4), level, dtype=torch.float64)) * (following - level)
    torch.testing.assert_close(draw_one(velocity, x, sampler(Linear(), steps)), euler, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_constant_velocity_is_exact_for_any_number_of_steps(steps):
    x0, eps = torch.randn(2, 1, 3, 2, 2, 1, dtype=torch.float64)
    drawn = draw_one(lambda x, sigma: eps - x0, eps, sampler(Linear(), steps))
    torch.testing.assert_close(drawn, x0, rtol=0, atol=1e-6)


def test_a_student_whose_f_is_the_data_returns_the_data_and_plain_euler_does_not():
    f = LCM()
    x0, eps = torch.randn(2, 1, 3, 2, 2, 1, dtype=torch.float64)

    def velocity(x, sigma):
        level = sigma[:, None, :, None, None].to(torch.float64)
        return (x0 - f.a(level) * x) / f.b(level)

    torch.testing.assert_close(draw_one(velocity, eps, sampler(f, 2)), x0, rtol=0, atol=1e-6)
    assert (draw_one(velocity, eps, sampler(Linear(), 1)) - x0).abs().max() > 0.1


def test_given_frames_stay_and_are_shown_clean():
    seen = []
    given = torch.full((1, 1, 1, 2, 1), 3.0)

    def velocity(x, sigma):
        seen.append((x[:, :, :1].clone(), sigma.clone()))
        return torch.ones_like(x)

    drawn = draw_one(velocity, torch.randn(1, 1, 2, 2, 1), sampler(LCM(), 2), given=given)
    assert torch.equal(drawn[:, :, :1], given)
    assert all(torch.equal(x, given) and sigma[0, 0] == 0 and sigma[0, 1] > 0 for x, sigma in seen)


def test_streams_of_a_stage_go_together_and_the_shorter_one_waits_clean():
    """A pair whose velocities depend on each other: the loop written out by hand."""
    calls = []

    def velocity(x, sigma):
        calls.append({name: float(level[0, 0]) for name, level in sigma.items()})
        return {"a": x["a"] + x["b"].mean(), "b": x["b"] - 0.5 * x["a"].mean()}

    noise = {name: torch.randn(2, 1, 1, 2, 1, dtype=torch.float64) for name in "ab"}
    samplers = {
        "a": StreamSampler(schedule=NoiseSchedule(5.0), consistency=Linear(), steps=1),
        "b": StreamSampler(schedule=NoiseSchedule(1.0), consistency=Linear(), steps=3),
    }
    drawn = draw(velocity, noise, samplers)
    levels = [{"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 2 / 3}, {"a": 0.0, "b": 1 / 3}]
    assert [call["a"] for call in calls] == [level["a"] for level in levels]
    assert [call["b"] for call in calls] == pytest.approx([level["b"] for level in levels])
    a, b = noise["a"], noise["b"]
    for k in range(3):
        step_a, step_b = a + b.mean(), b - 0.5 * a.mean()
        a, b = (a - step_a if k == 0 else a), b - step_b / 3
    torch.testing.assert_close(drawn["a"], a, rtol=0, atol=1e-6)
    torch.testing.assert_close(drawn["b"], b, rtol=0, atol=1e-6)


def test_steps_notation():
    assert parse_nfe("25v/50a") == {"video": 25, "action": 50}
    assert parse_nfe("full") is None
    for wrong in (
        "1v",
        "v/a",
        "0v/1a",
        "1v/1x",
        "",
        "²v/1a",
        "1v/①a",
        "1v/",
        "/1a",
        "9" * 5000 + "v/1a",
        "1v/2a/3a",
        "1v/1v/1a",
    ):
        with pytest.raises(ValueError, match="steps must"):
            parse_nfe(wrong)


def test_a_student_is_sampled_with_its_own_function_and_without_guidance():
    specs = {"video": StreamSpec(name="video", schedule=NoiseSchedule(5.0), consistency=LCM(), guidance_scale=3.0)}
    student = samplers_for(specs, steps={"video": 2}, teacher=False)["video"]
    assert (student.consistency, student.steps, student.guidance_scale) == (LCM(), 2, 1.0)
    assert samplers_for(specs, steps={"video": 2}, teacher=False, plain_euler=True)["video"].consistency == Linear()
    unit = samplers_for(specs, steps={"video": 2}, teacher=False, unit_amplitude=True)["video"]
    assert unit.consistency == UnitAmplitude(function=LCM())
    with pytest.raises(ValueError, match="ask for one"):
        samplers_for(specs, steps={"video": 2}, teacher=False, plain_euler=True, unit_amplitude=True)
    teacher = samplers_for(specs, steps=None, teacher=True)["video"]
    assert (teacher.consistency, teacher.steps, teacher.guidance_scale) == (Linear(), 10, 3.0)


def test_a_temperature_scales_the_noise_that_a_stream_begins_with_and_nothing_else():
    noise = {
        name: torch.randn(2, 3, 2, 2, 1, generator=torch.Generator().manual_seed(k)) for k, name in enumerate("ab")
    }
    given = {"a": torch.ones(2, 3, 1, 2, 1)}

    def velocity(x, sigma):
        return {name: torch.sin(state) + sigma[name][:, None, :, None, None] for name, state in x.items()}

    def drawn(noise, **temperatures):
        samplers = {name: sampler(f, 3) for name, f in (("a", Linear()), ("b", LCM()))}
        warmed = {name: replace(one, temperature=temperatures.get(name, 1.0)) for name, one in samplers.items()}
        return draw(velocity, noise, warmed, given=given)

    cool = drawn(noise, a=0.5)
    expected = drawn({"a": 0.5 * noise["a"], "b": noise["b"]})
    assert all(torch.equal(cool[name], expected[name]) for name in "ab")
    frozen = drawn({name: 7 * x.flip(0) for name, x in noise.items()}, a=0, b=0)
    assert all(torch.equal(x, frozen[name]) for name, x in drawn(noise, a=0, b=0).items())


def test_teacher_and_student_have_temperatures_of_their_own_and_one_that_is_asked_for_is_everybodys():
    spec = StreamSpec(name="video", schedule=NoiseSchedule(5.0), temperature=0.7, teacher_temperature=0.4)
    other = StreamSpec(name="action", schedule=NoiseSchedule(1.0))
    specs = {"video": spec, "action": other}

    def temperatures(**options):
        return [one.temperature for one in samplers_for(specs, steps=None, **options).values()]

    assert temperatures(teacher=True) == [0.4, 1.0]
    assert temperatures(teacher=False) == [0.7, 1.0]
    for teacher in (True, False):
        assert temperatures(teacher=teacher, temperature=0.0) == [0.0, 0.0]
        assert temperatures(teacher=teacher, temperature={"action": 0.0})[1] == 0.0
    assert temperatures(teacher=True, temperature={"action": 0.0}) == [0.4, 0.0]
    with pytest.raises(ValueError, match=r"no such stream \['actions'\]; expected any of \['action', 'video'\]"):
        samplers_for(specs, steps=None, teacher=True, temperature={"actions": 0.0})
    with pytest.raises(ValueError, match="temperature must"):
        samplers_for(specs, steps=None, teacher=True, temperature=11)
