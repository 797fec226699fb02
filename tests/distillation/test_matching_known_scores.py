# SPDX-License-Identifier: Apache-2.0
"""Distribution matching of numbers whose scores are known in closed form: where it leads."""

import pytest
import torch
from distill_toys import gaussian_velocity
from torch import nn

from flashwam.core.batch import Batch
from flashwam.core.noise import append_dims
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import DistributionMatching
from flashwam.distillation.roles import CRITIC
from flashwam.wam import Layout, WorldActionModel

NUMBERS = {"video": StreamSpec.from_config("video", {"shift": 1.0})}


class Numbers(WorldActionModel):
    """Numbers without a past, from a function of state and level."""

    layout = Layout(streams=("video",), chunk_frames=1, shapes={"video": (1, 4, 4)})

    def __init__(self, function, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def velocity(self, noisy, sigma, clean, context):
        return {"video": self.function(noisy["video"], append_dims(sigma["video"], noisy["video"]))}


class Affine(nn.Module):
    """mu + r z."""

    def __init__(self, mu: float, r: float) -> None:
        super().__init__()
        self.mu, self.r = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (mu, r))


def numbers(rows: int, dtype=torch.float64) -> Batch:
    """Samples without any content: the student draws from noise alone."""
    clean = {"video": torch.zeros(rows, 1, 1, 4, 4, dtype=dtype)}
    return Batch(
        clean=clean,
        history=clean,
        mask={"video": torch.ones(rows, 1, 1, 1, 1, dtype=torch.bool)},
        given=torch.zeros(rows, 1, dtype=torch.bool),
        text=torch.zeros(rows, 1, 1),
        null_text=torch.zeros(1, 1),
        index=torch.arange(rows),
    )


def test_in_a_gaussian_world_the_gradient_is_the_formula_and_leads_to_the_data():
    mean, spread = 0.8, 0.5
    affine = Affine(-0.3, 1.4)
    student = Numbers(lambda x, sigma: x - affine.mu - affine.r * x, affine)
    teacher = Numbers(lambda x, sigma: gaussian_velocity(x, sigma, torch.tensor(mean), spread))
    method = DistributionMatching(NUMBERS, student, teacher=teacher, rollout_steps=1)
    # The critic that would be learnt, were the student to stand still.
    exact = Numbers(lambda x, sigma: gaussian_velocity(x, sigma, affine.mu.detach(), affine.r.item()))
    method.roles.trained[CRITIC] = exact
    batch = numbers(8)
    optimizer = torch.optim.SGD(affine.parameters(), lr=0.4)
    for step in range(150):
        draws = Draws(seed=0, step=step, positions=range(8))
        optimizer.zero_grad()
        method.loss(batch, draws).loss.backward()
        if step == 0:
            z = draws.normal("draw/0/video", (1, 1, 4, 4)).double()
            tau = (0.02 + 0.96 * draws.again(1).uniform("renoise/video")).double()[:, None, None, None, None]
            x0 = (affine.mu + affine.r * z).detach()
            x = (1 - tau) * x0 + tau * draws.again(1).normal("noise/video", (1, 1, 4, 4)).double()
            estimates = []
            for m, s in ((mean, spread), (affine.mu.item(), affine.r.item())):
                q = (1 - tau) ** 2 * s**2 + tau**2
                estimates.append(m + (1 - tau) * s**2 / q * (x - (1 - tau) * m))
            real, fake = estimates
            g = (fake - real) / (x0 - real).abs().mean((1, 2, 3, 4), keepdim=True)
            torch.testing.assert_close(affine.mu.grad, g.mean(), rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(affine.r.grad, (g * z).mean(), rtol=1e-6, atol=1e-7)
        optimizer.step()
    assert affine.mu.item() == pytest.approx(mean, abs=1e-3)
    assert affine.r.item() == pytest.approx(spread, abs=1e-3)


class Kernel:
    """The exact velocity of a student's draws, were these all that it ever draws."""

    def __init__(self, student, rows: int) -> None:
        self.student, self.rows, self.step = student, rows, 0

    def __call__(self, x, sigma):
        noise = Draws(seed=9, step=self.step, positions=range(self.rows)).normal("kernel", (1, 1, 4, 4))
        points = (noise - self.student.function(noise, torch.ones(()))).flatten()
        flat, level = x.flatten(1)[:, :, None], sigma.flatten(1)[:, :, None]
        weight = torch.softmax(-((flat - (1 - level) * points) ** 2) / (2 * level**2), -1)
        return (x - (weight @ points).reshape(x.shape)) / sigma


def two_modes(x, sigma):
    """Of data that are 1 or -1."""
    return (x - torch.tanh((1 - sigma) * x / sigma**2)) / sigma


def test_a_student_of_two_ways_comes_to_take_them_and_not_their_mean():
    """A regression to the data would stay at 0, the mean of both."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    with torch.no_grad():
        # Nearly 0 everywhere, and able to change its sign in a narrow place.
        net[0].weight.mul_(15)
        net[2].weight.mul_(0.05)
        net[2].bias.zero_()
    student = Numbers(lambda x, sigma: x - net(x[..., None])[..., 0], net)
    method = DistributionMatching(NUMBERS, student, teacher=Numbers(two_modes), rollout_steps=1)
    kernel = Kernel(student, 4)
    method.roles.trained[CRITIC] = Numbers(kernel)
    optimizer = torch.optim.Adam(net.parameters(), lr=6e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 300)
    batch = numbers(4, torch.float32)
    z = torch.randn(4000, 1, generator=torch.Generator().manual_seed(2))

    def committed() -> tuple[float, float]:
        """Shares of draws near a way, and of draws to the right."""
        ends = net(z).detach()
        return float(((ends.abs() - 1).abs() < 0.3).float().mean()), float((ends > 0).float().mean())

    assert committed()[0] == 0
    for step in range(300):
        kernel.step = step
        optimizer.zero_grad()
        method.loss(batch, Draws(seed=1, step=step, positions=range(4))).loss.backward()
        optimizer.step()
        schedule.step()
    near, right = committed()
    assert near >= 0.95
    assert 0.3 < right < 0.7
