# SPDX-License-Identifier: Apache-2.0
"""One teacher-forced pass of either family: outputs and gradients are the CPU's."""

import pytest
import torch
from compared_models import MODELS, lingbot
from comparing import CPU, TOLERANCE, near, to
from torch import Tensor

from flashwam.wam import WorldActionModel
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
