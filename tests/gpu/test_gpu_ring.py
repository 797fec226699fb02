# SPDX-License-Identifier: Apache-2.0
"""The kernels of a rollout's ring compute what torch's attention under a mask computes."""

import pytest
import torch

from flashwam.wam.lingbot_va.ring_choice import make_ring_pass
from flashwam.wam.lingbot_va.ring_passes import MaskedRingPass

pytestmark = pytest.mark.gpu
REAL = ((240, 240, 32), 24, 128, 10336)
"""Tokens, heads, width of a head and places of LingBot-VA on RoboTwin."""


@pytest.mark.parametrize(
    ("tokens", "heads", "width", "places"),
    [REAL, ((32, 240), 24, 128, 10336), ((32,), 24, 128, 816), ((7, 3, 5), 3, 32, 61), ((1,), 1, 16, 40)],
)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stretches_of_a_ring(
    tokens: tuple[int, ...], heads: int, width: int, places: int, rows: int, dtype: torch.dtype, device: torch.device
) -> None:
    if device.type == "cpu":
        pytest.skip("kernels need a GPU; tests/wam/test_lingbot_rollout.py compares the masked ring with other caches")
    generator = torch.Generator().manual_seed(0)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    count, options = sum(tokens), {"dtype": dtype, "device": device}
    ring = torch.randn(2, rows, heads, places, width, generator=generator).to(**options)
    # As a block has them: queries and keys are new, values are a part of the joined product.
    q, k = torch.randn(2, rows, count, heads, width, generator=generator).to(**options).transpose(2, 3)
    joined = torch.randn(rows, count, 3, heads, width, generator=generator).to(**options)
    v = joined[:, :, 2].transpose(1, 2)
    control = torch.zeros(16, 3, dtype=torch.int32, device=device)
    by_kernels = make_ring_pass(tokens, control, ring)
    assert not isinstance(by_kernels, MaskedRingPass), "triton is there, and its kernels run"
    by_mask = MaskedRingPass(tokens, control, ring.float())
    for _ in range(3):
        # Where it begins is anywhere, so most stretches go round the end; nothing else changes between passes.
        own = number(0, places)
        for block, each in enumerate(tokens):
            seen = (number(0, places), number(each, places + 1), (own + sum(tokens[:block])) % places)
            control[block] = torch.tensor(seen, dtype=torch.int32)
        other = ring.float()
        by_kernels.write(by_kernels.begin(), *ring, k, v)
        by_mask.write(by_mask.begin(), *other, k.float(), v.float())
        assert torch.equal(ring.float(), other)
        for queries in {count, tokens[0]}:
            made = by_kernels.attend(by_kernels.begin(), q[:, :, :queries], *ring)
            expected = by_mask.attend(by_mask.begin(), q[:, :, :queries].float(), *other)
            error = float((made.float() - expected).norm() / expected.norm())
            assert error < (1e-5 if dtype == torch.float32 else 1e-2), error
            assert made.transpose(1, 2).is_contiguous()
