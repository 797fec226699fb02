# SPDX-License-Identifier: Apache-2.0
"""A foresight policy whose weights are bfloat16: served so, or trained by DeepSpeed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foresight_toys import TOLD, Observations, World, toy_policy

from flashwam.core.edm import EDMSchedule
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.setup import Setup
from flashwam.foresight.method import Foresight
from flashwam.foresight.policy import ForesightPolicy
from flashwam.foresight.resampler import MeanPool
from flashwam.sampling import Rollout, samplers_for

STREAMS = {
    "video": StreamSpec(name="video", schedule=NoiseSchedule(2.0), weight=0.0, teacher_steps=1),
    "action": StreamSpec(name="action", schedule=EDMSchedule(), teacher_steps=2),
}


def chunk(policy: ForesightPolicy) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    first = {name: torch.randn(2, c, 1, h, w, generator=generator) for name, (c, h, w) in policy.shapes.items()}
    samplers = samplers_for(STREAMS, steps={"video": 1, "action": 2}, teacher=True)
    text = torch.randn(2, 3, policy.settings["text_width"], generator=generator)
    return Rollout(policy.eval(), samplers, text=text, first=first, generator=generator).predict()["action"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"pooling": "mean"}, {"decoupler": {"width": 8, "blocks": 1, "heads": 2, "reference": "concatenated"}}],
    ids=["perceiver", "mean", "concatenated"],
)
def test_a_chunk_in_bfloat16_is_near_the_one_in_float32(
    make_policy: Callable[..., ForesightPolicy], changes: dict[str, Any]
) -> None:
    exact = chunk(make_policy(**changes))
    rounded = chunk(make_policy(**changes).to(torch.bfloat16))
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 0.05


def test_statistics_of_features_stay_exact(make_policy: Callable[..., ForesightPolicy]) -> None:
    decoupler = make_policy().decouplers["semantic"]
    decoupler.mean.fill_(1.001)
    decoupler.to(torch.bfloat16)
    assert decoupler.proj_in.weight.dtype == torch.bfloat16
    assert float(decoupler.mean[0]) == pytest.approx(1.001)


def test_a_mean_of_places_is_taken_in_bfloat16() -> None:
    assert MeanPool(3, 2, width=8).to(torch.bfloat16)(torch.ones(1, 3, 2, 1, 1)).dtype == torch.bfloat16


@pytest.mark.parametrize("stage", ["decouplers", "expert"])
def test_both_stages_learn_in_bfloat16(tmp_path: Path, stage: str) -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            teacher = World()
            policy = toy_policy(teacher, trained=stage)
        method = Foresight(STREAMS, policy, teacher=teacher, stage=stage, pool=4, teacher_streams=TOLD)
        batch = method.source(Observations(), Setup(data=tmp_path, streams=STREAMS, seed=0)).batch([0, 1])
        policy.to(dtype)
        out = method.loss(batch, Draws(seed=0, step=0, positions=range(2)))
        out.loss.backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in policy.parameters())
        losses.append(out.loss.detach().float())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)
