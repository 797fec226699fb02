# SPDX-License-Identifier: Apache-2.0
"""A policy whose weights are bfloat16: served so, or trained by DeepSpeed."""

import policy_toys
import pytest
import torch

from flashwam.distillation.draws import Draws
from flashwam.sampling import Rollout, samplers_for
from flashwam.student import load_wam, save_wam
from flashwam.swiftvla.method import MaskedReconstruction

OPTIONS = {
    "auxiliary": policy_toys.AUX,
    "fusion_tokens": 2,
    "mask": {"auxiliary": 0.5, "primary": 0.15},
    "reconstruct": {"auxiliary": 0.1, "primary": 0.1},
    "trajectory": 0.5,
    "head_width": 16,
}


@pytest.fixture
def batch():
    return policy_toys.PolicySource().batch(list(range(4)))


def chunk(model, batch):
    first = {name: x[:, :, :1] for name, x in batch.history.items()}
    samplers = samplers_for(policy_toys.specs(), steps={"video": 1, "action": 2}, teacher=False)
    generator = torch.Generator().manual_seed(3)
    return Rollout(model.eval(), samplers, text=batch.text, first=first, generator=generator).predict()["action"]


def test_a_chunk_in_bfloat16_is_near_the_one_in_float32(batch, tmp_path):
    save_wam(tmp_path, policy_toys.policy(fusion_tokens=2), policy_toys.specs(), kind="teacher")
    exact, rounded = (chunk(load_wam(tmp_path, dtype=dtype)[0], batch) for dtype in (torch.float32, torch.bfloat16))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.05 * float(exact.abs().max()), rtol=0)


def test_positions_are_turned_by_exact_angles():
    model = policy_toys.policy()
    exact = model.trunk.rotary.inv_freq.clone()
    model.to(torch.bfloat16)
    assert model.trunk.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert torch.equal(model.trunk.rotary.inv_freq, exact)


def test_masked_reconstruction_learns_in_bfloat16(batch):
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        method = MaskedReconstruction(policy_toys.specs(), policy_toys.policy(), **OPTIONS)
        method.roles.model.to(dtype)
        out = method.loss(batch, Draws(seed=0, step=0, positions=range(4)))
        out.loss.backward()
        assert all(term.velocity.dtype == torch.float32 for term in out.terms.values())
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in method.roles.model.parameters())
        losses.append(out.loss.detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)
