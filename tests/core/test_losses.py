# SPDX-License-Identifier: Apache-2.0
import torch

from flashwam.core.losses import flow_matching_loss, pseudo_huber


def test_pseudo_huber_is_quadratic_near_zero_and_absolute_far_away():
    zero = torch.zeros(2, dtype=torch.float64)
    loss = pseudo_huber(torch.tensor([1e-5, 10.0], dtype=torch.float64), zero, c=1e-3)
    torch.testing.assert_close(loss, torch.tensor([1e-10 / 2e-3, 10 - 1e-3], dtype=torch.float64), rtol=1e-4, atol=0)


def test_flow_matching_loss_vanishes_on_the_true_velocity():
    x0, eps = torch.randn(2, 3, 4)
    assert flow_matching_loss(eps - x0, x0, eps).abs().max() == 0


def test_half_precision_losses_are_taken_in_float32():
    x = torch.ones(2, dtype=torch.bfloat16)
    assert pseudo_huber(x, 0 * x, c=1e-3).dtype == flow_matching_loss(x, x, x).dtype == torch.float32
