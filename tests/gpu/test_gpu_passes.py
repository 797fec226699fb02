# SPDX-License-Identifier: Apache-2.0
"""One teacher-forced pass of either family: outputs and gradients are the CPU's."""

import pytest
import torch
from compared_models import MODELS, lingbot
from comparing import CPU, TOLERANCE, near, to
from torch import Tensor

from flashwam.wam import WorldActionModel
from flashwam.wam.linear_gelu import linear_gelu, runs_inside
from flashwam.wam.lingbot_va import flex

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:flex_attention called without")]
FRAMES = 6


KINDS = {
    "sdpa": lingbot,
    "flex": lambda: lingbot(attention="flex"),
    "checkpointed": lambda: lingbot(gradient_checkpointing=True),
    "cogvideox": MODELS["cogvideox"],
}


def masked_pass(
    wam: WorldActionModel, device: torch.device, dtype: torch.dtype = torch.float32, *, gradients: bool = True
) -> dict[str, Tensor]:
    """Velocities, and the norm of every parameter's gradient of their mean square."""
    generator = torch.Generator().manual_seed(0)
    frames = wam.chunk_frames if wam.conditions_on_first else FRAMES
    sizes = {name: (2, c, frames, h, w) for name, (c, h, w) in wam.shapes.items()}
    noisy, clean = ({name: torch.randn(size, generator=generator) for name, size in sizes.items()} for _ in range(2))
    level = torch.rand(2, 1, generator=generator).expand(2, frames).contiguous()
    sigma = dict.fromkeys(noisy, level)
    text = torch.randn(2, 3, 32, generator=generator)
    wam = wam.to(device=device, dtype=dtype).requires_grad_(gradients)
    velocity = wam(*(to(device, x) for x in (noisy, sigma, clean, {"text": text})))
    out = {name: x.detach().float() for name, x in velocity.items()}
    if gradients:
        sum(x.float().square().mean() for x in velocity.values()).backward()
        out["gradients"] = torch.stack([p.grad.float().norm() for p in wam.parameters() if p.grad is not None])
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_pass_is_the_cpus(kind: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flex attention is compiled on a GPU; without one its uncompiled reference is run, which has no gradients."""
    uncompiled = kind == "flex" and device.type == "cpu"
    if uncompiled:
        monkeypatch.setattr(flex, "compiled", lambda function, **options: function)
    expected = masked_pass(KINDS["sdpa" if kind == "flex" else kind](), CPU, gradients=not uncompiled)
    got = masked_pass(KINDS[kind](), device, gradients=not uncompiled)
    near(got, expected, device, within=TOLERANCE)


@pytest.mark.parametrize("kind", ["sdpa", "cogvideox"])
def test_a_pass_in_bfloat16_is_near_the_cpus_in_float32(kind: str, device: torch.device) -> None:
    expected = masked_pass(KINDS[kind](), CPU, gradients=False)
    got = masked_pass(KINDS[kind](), device, torch.bfloat16, gradients=False)
    for name, value in expected.items():
        assert got[name].device.type == device.type
        assert (got[name].cpu() - value).square().mean() < 0.05**2 * value.square().mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gelu_in_a_product_is_the_cpus(dtype: torch.dtype, device: torch.device) -> None:
    """At the narrow and at the real model's width, for a pass's many tokens and for few."""
    assert runs_inside(device, dtype) == (device.type == "cuda")
    generator = torch.Generator().manual_seed(0)
    for tokens, width, out in ((5, 48, 96), (512, 3072, 14336), (32, 3072, 14336)):
        if device.type == "cpu" and width > 48:
            continue
        x, bias = torch.randn(1, tokens, width, generator=generator), torch.randn(out, generator=generator)
        weight = torch.randn(out, width, generator=generator) * width**-0.5
        exact = linear_gelu(*(value.to(dtype).float() for value in (x, weight, bias)))
        found = linear_gelu(*(value.to(device, dtype) for value in (x, weight, bias))).cpu().float()
        assert (found - exact).norm() < 4e-3 * exact.norm()
