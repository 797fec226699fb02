# SPDX-License-Identifier: Apache-2.0
"""Streams that are looked at once, from pure noise, and never drawn."""

from dataclasses import replace

import pytest
import torch
from toy_families import BATCH, FRAMES, SHAPES, Seer, batch, frame, sampler, specs

from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.consistency import ConsistencyDistillation
from flashwam.distillation.methods.flow_matching import FlowMatching
from flashwam.distillation.methods.on_policy import OnPolicy
from flashwam.sampling import Rollout


def test_a_probe_is_looked_at_once_and_not_drawn():
    model = Seer()
    first = {name: frame(4, name) for name in SHAPES}
    samplers = {"video": sampler(1), "action": sampler(3)}
    generator = torch.Generator().manual_seed(0)
    rollout = Rollout(model, samplers, text=torch.zeros(BATCH, 1, 3), first=first, generator=generator)
    noise = rollout.noise()
    drawn = rollout.predict(noise)
    session = rollout.session
    assert set(drawn) == {"action"}
    assert set(model.noisy) == {"action"}
    assert set(session.seen) == set(SHAPES)
    for name in SHAPES:
        assert torch.equal(session.seen[name][:, :, :1], first[name])
        assert torch.equal(session.seen[name][:, :, 1:], noise[name][:, :, 1:])
        assert session.level[name].tolist() == [[0, 1, 1]] * BATCH
    rollout.observe({name: frame(1, name).expand(-1, -1, FRAMES, -1, -1) for name in SHAPES})
    rollout.predict(noise)
    assert torch.equal(session.seen["video"], noise["video"])
    assert (session.level["video"] == 1).all()
    assert set(rollout.seconds) == {"video", "action"}


def test_a_probe_takes_one_step_and_cannot_be_replaced():
    first = {name: frame(0, name) for name in SHAPES}
    with pytest.raises(ValueError, match="take 1 step, such as '1v/4a'"):
        Rollout(Seer(), {n: sampler(2) for n in SHAPES}, text=torch.zeros(BATCH, 1, 3), first=first)
    rollout = Rollout(Seer(), {n: sampler(1) for n in SHAPES}, text=torch.zeros(BATCH, 1, 3), first=first)
    with pytest.raises(ValueError, match="nothing to replace"):
        rollout.predict(replace={"video": frame(0, "video")})


def test_what_a_probe_is_looked_at_from_is_one_draw_for_every_role():
    streams = specs()
    streams["video"] = replace(streams["video"], weight=0.0)
    streams["action"] = replace(streams["action"], guidance=(2.0, 2.0), teacher_substeps=2)
    seen = []

    class Noting(Seer):
        def velocity(self, noisy, sigma, clean, context):
            seen.append(context["noise"])
            return super().velocity(noisy, sigma, clean, context)

    method = ConsistencyDistillation(streams, Noting(0.9), teacher=Noting())
    output = method.loss(batch(), Draws(seed=0, step=0, positions=range(BATCH)))
    assert set(output.terms) == {"action"}
    assert len(seen) == 6  # student, target, and twice two of the teacher
    for noise in seen[1:]:
        assert all(torch.equal(noise[name], seen[0][name]) for name in SHAPES)


def test_methods_that_draw_every_stream_refuse_a_probe():
    with pytest.raises(ValueError, match=r"never draws \['video'\]"):
        FlowMatching(specs(), Seer())
    with pytest.raises(ValueError, match=r"never draws \['video'\]"):
        OnPolicy(specs(), Seer(), teacher=Seer())
    with pytest.raises(ValueError, match="set their weight and regulariser to 0"):
        ConsistencyDistillation(specs(), Seer(), teacher=Seer())
