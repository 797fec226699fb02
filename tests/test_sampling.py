# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from flashwam.core.consistency import LCM, Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.sampling import StreamSampler, draw, parse_nfe, samplers_for


def sampler(consistency, steps, shift=5.0):
    return StreamSampler(schedule=NoiseSchedule(shift), consistency=consistency, steps=steps)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_linear_steps_are_euler_steps(steps):
    def velocity(x, sigma):
        return torch.sin(x) + sigma[:, None, :, None, None]

    x = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    euler = x
    grid = NoiseSchedule(5.0).sampling_grid(steps).float().tolist()
    for level, following in zip(grid[:-1], grid[1:], strict=True):
        euler = euler + velocity(euler, torch.full((2, 4), level, dtype=torch.float64)) * (following - level)
    torch.testing.assert_close(draw(velocity, x, sampler(Linear(), steps)), euler, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_constant_velocity_is_exact_for_any_number_of_steps(steps):
    x0, eps = torch.randn(2, 1, 3, 2, 2, 1, dtype=torch.float64)
    drawn = draw(lambda x, sigma: eps - x0, eps, sampler(Linear(), steps))
    torch.testing.assert_close(drawn, x0, rtol=0, atol=1e-6)


def test_a_student_whose_f_is_the_data_returns_the_data_and_plain_euler_does_not():
    f = LCM()
    x0, eps = torch.randn(2, 1, 3, 2, 2, 1, dtype=torch.float64)

    def velocity(x, sigma):
        level = sigma[:, None, :, None, None].to(torch.float64)
        return (x0 - f.a(level) * x) / f.b(level)

    torch.testing.assert_close(draw(velocity, eps, sampler(f, 2)), x0, rtol=0, atol=1e-6)
    assert (draw(velocity, eps, sampler(Linear(), 1)) - x0).abs().max() > 0.1


def test_given_frames_stay_and_are_shown_clean():
    seen = []
    given = torch.full((1, 1, 1, 2, 1), 3.0)

    def velocity(x, sigma):
        seen.append((x[:, :, :1].clone(), sigma.clone()))
        return torch.ones_like(x)

    drawn = draw(velocity, torch.randn(1, 1, 2, 2, 1), sampler(LCM(), 2), given=given)
    assert torch.equal(drawn[:, :, :1], given)
    assert all(torch.equal(x, given) and sigma[0, 0] == 0 and sigma[0, 1] > 0 for x, sigma in seen)


def test_steps_notation():
    assert parse_nfe("25v/50a") == {"video": 25, "action": 50}
    assert parse_nfe("full") is None
    for wrong in ("1v", "v/a", "0v/1a", "1v/1x", ""):
        with pytest.raises(ValueError, match="steps must"):
            parse_nfe(wrong)


def test_a_student_is_sampled_with_its_own_function_and_without_guidance():
    specs = {"video": StreamSpec(name="video", schedule=NoiseSchedule(5.0), consistency=LCM(), guidance_scale=3.0)}
    student = samplers_for(specs, steps={"video": 2}, teacher=False)["video"]
    assert (student.consistency, student.steps, student.guidance_scale) == (LCM(), 2, 1.0)
    assert samplers_for(specs, steps={"video": 2}, teacher=False, plain_euler=True)["video"].consistency == Linear()
    teacher = samplers_for(specs, steps=None, teacher=True)["video"]
    assert (teacher.consistency, teacher.steps, teacher.guidance_scale) == (Linear(), 10, 3.0)
