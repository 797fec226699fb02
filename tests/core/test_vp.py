# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from flashwam.core.noise import (
    NoiseSchedule,
    flow_output_from_vp,
    flow_sigma_from_vp,
    flow_state_from_vp,
    vp_from_flow_sigma,
    vp_state_from_flow,
)
from flashwam.core.vp import VPSchedule, signal_power, zero_terminal_snr

SHIFTS = [1.0, 3.0]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012}

# index: (alpha, s, sigma) as printed for CogVideoX-5b (SNR shift 1) and CogVideoX-2b (SNR shift 3).
TABLE = {
    1.0: {
        999: ("0", "1", "1"),
        998: (".000444", "1.0", ".999557"),
        979: (".009262", ".999957", ".990822"),
        899: (".055073", ".998482", ".947726"),
        749: (".182130", ".983274", ".843719"),
        499: (".492300", ".870426", ".638739"),
        249: (".808820", ".588057", ".420980"),
        99: (".942383", ".334536", ".261987"),
        19: (".990460", ".137803", ".122137"),
        0: (".999575", ".029155", ".028341"),
    },
    3.0: {
        999: ("0", "1", "1"),
        998: (".000250", "1.0", ".999750"),
        979: (".005215", ".999986", ".994812"),
        899: (".031125", ".999515", ".969800"),
        749: (".104718", ".994502", ".904734"),
        499: (".309790", ".950805", ".754251"),
        249: (".625212", ".780455", ".555221"),
        99: (".854908", ".518780", ".377655"),
        19: (".972920", ".231143", ".191969"),
        0: (".998726", ".050455", ".048090"),
    },
}
QUANTILES = {1.0: (0.263, 0.422, 0.639, 0.844, 0.948), 3.0: (0.379, 0.556, 0.755, 0.905, 0.970)}


@pytest.mark.parametrize("shift", SHIFTS)
def test_table_equals_the_published_one_to_every_printed_digit(shift):
    schedule = VPSchedule(snr_shift=shift)
    for index, printed in TABLE[shift].items():
        sigma = torch.tensor(schedule.sigma((index + 1) / 1000), dtype=torch.float64)
        for value, digits in zip((*vp_from_flow_sigma(sigma), sigma), printed, strict=True):
            half_a_digit = 0.5000001 * 10.0 ** -len(digits.partition(".")[2])
            assert float(value) == pytest.approx(float(digits), rel=0, abs=half_a_digit if "." in digits else 0)


@pytest.mark.parametrize("shift", SHIFTS)
def test_quantiles_median_and_low_noise_mass(shift):
    schedule = VPSchedule(snr_shift=shift)
    q = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    published = torch.tensor(QUANTILES[shift], dtype=torch.float64)
    torch.testing.assert_close(torch.quantile(schedule.training_grid(), q), published, rtol=0, atol=5e-4)
    # Quantiles of a continuous u lie up to one table entry below those of the 1000 entries.
    assert bool((schedule.u(published) - q < 1.5e-3).all())
    assert bool((schedule.u(published) - q > -0.5e-3).all())
    assert schedule.median == schedule.sigma(0.5)
    assert schedule.mass_below(schedule.sigma(0.0125)) == pytest.approx(0.0125, abs=1e-15)


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_ends_are_exact_and_the_grid_holds_the_table_from_noise_to_data(shift):
    schedule = VPSchedule(snr_shift=shift)
    assert (schedule.sigma(0.0), schedule.sigma(1.0), schedule.u(0.0), schedule.u(1.0)) == (0, 1, 0, 1)
    abar = zero_terminal_snr(signal_power(snr_shift=shift, **BETAS))
    table = flow_sigma_from_vp(abar.sqrt(), (1 - abar).sqrt())
    grid = schedule.training_grid()
    torch.testing.assert_close(grid.flip(0), table, rtol=0, atol=1e-14)
    assert grid[0] == 1
    assert bool((grid.diff() < 0).all())


@pytest.mark.parametrize("shift", SHIFTS)
def test_u_and_sigma_are_inverse_and_density_is_the_derivative_of_the_cdf(shift):
    schedule = VPSchedule(snr_shift=shift)
    u = torch.rand(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u[0, 0], u[0, 1] = 0, 1
    u.requires_grad_()
    sigma = schedule.sigma(u)
    torch.testing.assert_close(schedule.u(sigma), u, rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(sigma.sum(), u)
    level = sigma.detach().requires_grad_()
    (cdf_slope,) = torch.autograd.grad(schedule.cdf(level).sum(), level)
    torch.testing.assert_close(schedule.density(level.detach()), cdf_slope, rtol=1e-12, atol=0)
    inner = slice(1, None)
    torch.testing.assert_close(slope[inner] * cdf_slope[inner], torch.ones(63, 16).double(), rtol=1e-9, atol=0)


def test_density_integrates_to_one_and_expectations_to_the_sum_of_trapezoids():
    schedule = VPSchedule(snr_shift=3.0)
    table = torch.cat([schedule.training_grid().flip(0).new_zeros(1), schedule.training_grid().flip(0)])
    middles = (table[1:] + table[:-1]) / 2
    assert float((schedule.density(middles) * table.diff()).sum()) == pytest.approx(1, abs=1e-13)
    assert schedule.expectation(lambda sigma: sigma) == pytest.approx(float(middles.mean()), abs=1e-13)
    squares = (table[1:] ** 2 + table[1:] * table[:-1] + table[:-1] ** 2) / 3
    assert schedule.expectation(lambda sigma: sigma**2) == pytest.approx(float(squares.mean()), abs=1e-13)


def test_single_precision_and_scalars_follow_double_precision():
    schedule = VPSchedule()
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    single = schedule.sigma(u.float())
    assert single.dtype == torch.float32
    assert single[[0, -1]].tolist() == [0, 1]
    torch.testing.assert_close(single.double(), schedule.sigma(u), rtol=0, atol=2e-7)
    torch.testing.assert_close(schedule.u(single).double(), u, rtol=0, atol=1e-6)
    assert isinstance(schedule.sigma(0.3), float)
    assert schedule.sigma(0.3) == float(schedule.sigma(u[600]))
    assert schedule.sigma(torch.tensor(0.3, dtype=torch.float64)).shape == ()


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_index_is_an_exact_integer_at_the_tables_levels(shift, dtype):
    schedule = VPSchedule(snr_shift=shift)
    levels = schedule.levels(dtype=dtype)
    assert torch.equal(schedule.index(levels), torch.arange(-1, 1000, dtype=dtype))
    # However a share of draws was computed, it names its entry exactly.
    shares = torch.arange(1001, dtype=torch.float64) / 1000
    for u in (shares, (1 - shares).flip(0), torch.linspace(1, 0, 1001, dtype=torch.float64).flip(0)):
        assert torch.equal(schedule.sigma(u), schedule.levels())
    assert torch.equal(schedule.index(schedule.training_grid().to(dtype)), torch.arange(999, -1, -1, dtype=dtype))


def test_between_levels_the_index_is_linear_in_sigma():
    schedule = VPSchedule(snr_shift=3.0)
    levels = schedule.levels()
    for share in (0.25, 0.5, 0.9):
        between = torch.lerp(levels[:-1], levels[1:], share)
        expected = torch.arange(-1, 999, dtype=torch.float64) + share
        torch.testing.assert_close(schedule.index(between), expected, atol=1e-9, rtol=0)
    sigma = torch.tensor([0.3, float(levels[400])], dtype=torch.float64, requires_grad=True)
    schedule.index(sigma).sum().backward()
    below = schedule.index(sigma.detach()).floor().long() + 1
    assert sigma.grad.tolist() == pytest.approx((1 / (levels[below + 1] - levels[below])).tolist())


def test_half_precision_levels_are_taken_as_float32():
    schedule, sigma = VPSchedule(), torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16)
    assert torch.equal(schedule.index(sigma), schedule.index(sigma.float()))
    assert schedule.index(sigma).dtype == torch.float32


def test_levels_first_seen_in_inference_mode_still_carry_gradients():
    schedule = VPSchedule(snr_shift=2.718)
    with torch.inference_mode():
        schedule.sigma(torch.rand(3))
    u = torch.rand(3, requires_grad=True)
    schedule.sigma(u).sum().backward()
    assert bool((u.grad > 0).all())


@pytest.mark.parametrize("shift", SHIFTS)
def test_signal_power_equals_diffusers(shift):
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.CogVideoXDDIMScheduler(
        **BETAS,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=shift,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    ).alphas_cumprod
    assert reference.dtype == torch.float64
    ours = zero_terminal_snr(signal_power(snr_shift=shift, **BETAS))
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1.0, 3.0, 0.4])
def test_snr_shift_is_the_flow_shift_of_its_root_before_the_rescaling(k):
    def levels(shift: float) -> torch.Tensor:
        power = signal_power(snr_shift=shift, **BETAS)
        return flow_sigma_from_vp(power.sqrt(), (1 - power).sqrt())

    torch.testing.assert_close(levels(k), NoiseSchedule(k**0.5).sigma(levels(1.0)), rtol=0, atol=1e-12)


@pytest.fixture
def states():
    """Nine levels from pure noise to data; a state and two network outputs at each of the first eight, [8, 5]."""
    sigma = VPSchedule(snr_shift=3.0).sampling_grid(8)
    generator = torch.Generator().manual_seed(0)
    x, conditional, unconditional = torch.randn(3, 8, 5, dtype=torch.float64, generator=generator)
    return sigma, x, conditional, unconditional


def test_euler_in_flow_coordinates_is_the_ddim_step(states):
    sigma, x, v, _ = states
    (alpha, s), (alpha_next, s_next) = (
        tuple(part[:, None] for part in vp_from_flow_sigma(level)) for level in (sigma[:-1], sigma[1:])
    )
    x0 = alpha * x - s * v
    ddim = s_next / s * x + (alpha_next - alpha * s_next / s) * x0
    flow = flow_state_from_vp(x, alpha, s) + sigma.diff()[:, None] * flow_output_from_vp(v, x, alpha, s)
    torch.testing.assert_close(vp_state_from_flow(flow, alpha_next, s_next), ddim, rtol=0, atol=1e-12)


def test_guidance_of_v_is_guidance_of_the_flow_velocity(states):
    sigma, x, conditional, unconditional = states
    alpha, s = (part[:, None] for part in vp_from_flow_sigma(sigma[:-1]))

    def guided(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return b + 6.0 * (a - b)

    inside = flow_output_from_vp(guided(conditional, unconditional), x, alpha, s)
    outside = guided(flow_output_from_vp(conditional, x, alpha, s), flow_output_from_vp(unconditional, x, alpha, s))
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-12)


def test_weighted_flow_matching_is_the_squared_error_of_v():
    schedule = VPSchedule(snr_shift=3.0)
    alpha, s = vp_from_flow_sigma(schedule.training_grid())
    torch.testing.assert_close(schedule.training_weights(), (alpha + s) ** -2, rtol=0, atol=1e-12)
    x, v, other = torch.randn(3, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    flow_error = flow_output_from_vp(v, x, alpha, s) - flow_output_from_vp(other, x, alpha, s)
    torch.testing.assert_close(schedule.training_weights() * flow_error**2, (v - other) ** 2, rtol=0, atol=1e-11)


@pytest.mark.parametrize("steps", [1, 2, 4, 10, 50])
def test_sampling_visits_trailing_indices_and_ends_clean(steps):
    schedule = VPSchedule()
    grid = schedule.sampling_grid(steps)
    assert len(grid) == steps + 1
    assert grid[[0, -1]].tolist() == [1, 0]
    expected = [999 - step * 1000 // steps for step in range(steps)]
    assert schedule.index(grid)[:-1].tolist() == pytest.approx(expected, abs=1e-9)
    known = {4: [999, 749, 499, 249], 10: list(range(999, 0, -100)), 50: list(range(999, 0, -20))}
    assert expected == known.get(steps, expected)


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_more_steps_than_the_table_has_are_refused(steps):
    with pytest.raises(ValueError, match=rf"1 to as many steps; got {steps}"):
        VPSchedule().sampling_grid(steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"snr_shift": 0}, "snr_shift must be"), ({"snr_shift": float("nan")}, "snr_shift must be"),
     ({"beta_start": 0}, "beta_start and beta_end"), ({"beta_end": 1.0}, "beta_start and beta_end"),
     ({"beta_start": 0.02}, "beta_start and beta_end")],
)  # fmt: skip
def test_impossible_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        VPSchedule(**change)
