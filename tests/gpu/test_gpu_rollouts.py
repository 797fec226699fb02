# SPDX-License-Identifier: Apache-2.0
"""Closed loops on the device draw what the CPU draws from the same noise, with every kind of cache."""

from functools import partial
from typing import Any

import pytest
import torch
from compared_models import MODELS, lingbot
from comparing import CPU, near, to
from torch import Tensor

from flashwam.core.streams import StreamSpec
from flashwam.sampling import Rollout, samplers_for
from flashwam.system.errors import InputError
from flashwam.wam import WorldActionModel
from flashwam.wam.rounded_linear import check_float8

pytestmark = pytest.mark.gpu
STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm", "guidance_scale": 2.0}),
    "action": StreamSpec.from_config("action", {"shift": 1.0, "steps": 2}),
}
CHUNKS = 4
WITHIN = 2e-3
"""Of numbers around 1: differences of a pass are carried on through steps and chunks."""


def chunks(
    wam: WorldActionModel,
    device: torch.device,
    *,
    teacher: bool = False,
    dtype: torch.dtype | None = None,
    **session: Any,
) -> dict[str, Tensor]:
    """Four chunks, past the window of two; what is observed of each is made up.

    Args:
        wam: The model.
        device: Where it draws.
        teacher: Guided, by plain steps; else as a student does.
        dtype: Of its weights.
        session: Keywords of the family's own session.
    """
    generator = torch.Generator().manual_seed(3)
    wam = wam.to(device=device, dtype=dtype)
    width = wam.text_shape[1] or 32
    text, null_text = (torch.randn(*shape, width, generator=generator).to(device) for shape in ((2, 3), (3,)))
    sizes = {**wam.shapes, **{name: (count, 1, 1) for name, count in wam.senses.items()}}

    def frames(count: int) -> dict[str, Tensor]:
        made = {name: torch.randn(2, c, count, h, w, generator=generator) for name, (c, h, w) in sizes.items()}
        return to(device, made)

    if session:
        wam.session = partial(wam.session, **session)
    steps = {name: 1 if name in wam.probes else 3 for name in wam.streams}
    samplers = samplers_for(STREAMS, steps=steps, teacher=teacher)
    noise = torch.Generator().manual_seed(4)
    rollout = Rollout(wam, samplers, text=text, null_text=null_text, first=frames(1), generator=noise)
    drawn = []
    for _ in range(CHUNKS):
        drawn.append(rollout.predict())
        executed = rollout.executed
        rollout.observe(frames(executed.stop - (executed.start if wam.conditions_on_first else 0)))
    return {name: torch.stack([chunk[name] for chunk in drawn]).float() for name in drawn[0]}


@pytest.mark.parametrize("teacher", [True, False], ids=["guided", "student"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("static", [False, True], ids=["growing", "fixed"])
def test_every_cache_draws_what_the_cpu_draws(static: bool, fused: bool, teacher: bool, device: torch.device) -> None:
    expected = chunks(lingbot(), CPU, teacher=teacher, static=False, fused=False)
    near(chunks(lingbot(), device, teacher=teacher, static=static, fused=fused), expected, device, within=WITHIN)


@pytest.mark.parametrize("teacher", [True, False], ids=["guided", "student"])
def test_streams_that_are_drawn_together(teacher: bool, device: torch.device) -> None:
    make = MODELS["cogvideox"]
    near(chunks(make(), device, teacher=teacher), chunks(make(), CPU, teacher=teacher), device, within=WITHIN)


@pytest.mark.parametrize("teacher", [True, False], ids=["guided", "student"])
def test_streams_that_are_drawn_together_from_recorded_passes(teacher: bool, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("CUDA graphs need a GPU; tests/wam/test_cogvideox_graphed.py records for the CPU")
    wam, expected = MODELS["cogvideox"](), chunks(MODELS["cogvideox"](), CPU, teacher=teacher)
    wam.choose_rollout("graphed")
    for _ in range(2):
        near(chunks(wam, device, teacher=teacher), expected, device, within=WITHIN)
        assert 0 < wam.recorded.recordings.count <= 3


@pytest.mark.parametrize("policy", ["foresight", "fusion"])
def test_policies_that_only_look_at_the_video(policy: str, device: torch.device) -> None:
    near(chunks(MODELS[policy](), device), chunks(MODELS[policy](), CPU), device, within=WITHIN)


@pytest.mark.parametrize("family", ["lingbot_va", "cogvideox"])
def test_a_loop_in_bfloat16_stays_near(family: str, device: torch.device) -> None:
    expected = chunks(MODELS[family](), CPU)
    got = chunks(MODELS[family](), device, dtype=torch.bfloat16)
    for name, value in expected.items():
        assert got[name].device.type == device.type
        assert (got[name].cpu() - value).square().mean() < 0.1**2 * value.square().mean()


@pytest.mark.parametrize("way", ["dynamic", "graphed"])
def test_8_bit_layers_draw_what_the_cpu_emulates(way: str, device: torch.device) -> None:
    """Its sums are added up in another order, so now and then a number is rounded to the next one of 8 bits."""
    try:
        check_float8(device)
    except InputError as error:
        pytest.skip(str(error))
    if device.type == "cpu" and way == "graphed":
        pytest.skip("CUDA graphs need a GPU; tests/wam/test_rounded_linear.py records for the CPU")

    def rounded(rollout: str) -> WorldActionModel:
        wam = lingbot(rollout=rollout)
        wam.choose_precision("fp8")
        return wam

    wam, expected = rounded(way), chunks(rounded("dynamic"), CPU)
    for _ in range(2):
        got = chunks(wam, device)
        for name, value in expected.items():
            assert got[name].device.type == device.type
            assert (got[name].cpu() - value).square().mean() < 0.03**2 * value.square().mean()
    assert way != "graphed" or wam.lanes.recorded > 0


@pytest.mark.parametrize("way", ["compiled", "graphed"])
@pytest.mark.parametrize("teacher", [True, False], ids=["guided", "student"])
def test_compiled_loops_draw_what_the_cpu_draws(teacher: bool, way: str, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("compiled on a GPU alone; tests/wam/test_lingbot_graphed.py compiles and records for the CPU")
    wam, expected = lingbot(rollout=way), chunks(lingbot(), CPU, teacher=teacher)
    near(chunks(wam, device, teacher=teacher), expected, device, within=WITHIN)
    recorded = wam.lanes.recorded if way == "graphed" else 0
    assert (recorded > 0) == (way == "graphed")
    near(chunks(wam, device, teacher=teacher), expected, device, within=WITHIN)
    assert way != "graphed" or wam.lanes.recorded == recorded
