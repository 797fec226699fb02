# SPDX-License-Identifier: Apache-2.0
"""Every method on the real architecture, at a size that takes seconds."""

import json

import pytest
import torch
from waves import STREAMS, Waves, loop, make

from flashwam.core.losses import pseudo_huber
from flashwam.core.noise import append_dims
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import make_method
from flashwam.distillation.methods.base import reduce_elements
from flashwam.distillation.methods.consistency import jump_levels
from flashwam.distillation.methods.states import start_states, training_levels
from flashwam.distillation.roles import relative_distance
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoraConfig
from flashwam.sampling import Rollout, samplers_for
from flashwam.student import load_wam


def test_teacher_then_student_then_on_policy_stage(tmp_path):
    source = Waves()
    config = loop("flow_matching", steps=60)
    teacher = train(make_method(config, STREAMS, make()), source, config, run_dir=tmp_path / "t", seed=0)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "t/metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])

    student = teacher
    for method in ("consistency", "on_policy"):
        model, frozen = load_wam(student)[0], load_wam(teacher)[0]
        config = loop(method)
        built = make_method(config, STREAMS, model, teacher=frozen)
        student = train(built, source, config, run_dir=tmp_path / method, seed=0)
        assert relative_distance(frozen, load_wam(teacher)[0]) == 0
        assert relative_distance(load_wam(student)[0], load_wam(teacher)[0]) > 1e-4
        last = json.loads((tmp_path / method / "metrics.jsonl").read_text().splitlines()[-1])
        assert all(torch.isfinite(torch.tensor(float(value))) for value in last.values())

    wam, info = load_wam(student)
    data = source.batch([0, 1])
    rollout = Rollout(
        wam.eval(),
        samplers_for(info.streams, steps={"video": 1, "action": 1}, teacher=False),
        text=data.text,
        first={name: x[:, :, :1] for name, x in data.clean.items()},
    )
    assert rollout.predict()["action"].shape == (2, 4, 2, 2, 1)


@pytest.mark.parametrize("chunk", [0, 1])
def test_on_policy_chunks_are_a_rollouts(chunk):
    """The stage's own video is what a rollout draws; its target is what the teacher's rollout draws given that."""
    model, teacher = make(seed=3).eval(), make(seed=4).eval()
    with torch.no_grad():
        for wam in (model, teacher):
            for p in wam.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    streams = {name: StreamSpec.from_config(name, {**spec.config, "steps": 2}) for name, spec in STREAMS.items()}
    streams["video"] = StreamSpec.from_config("video", {**STREAMS["video"].config, "guidance": None, "steps": 2})
    # A path of one step has no inner nodes, so it is the sampler's.
    config = loop("on_policy", options={"teacher_steps": 1})
    method = make_method(config, streams, model, teacher=teacher)
    step = next(k for k in range(50) if method._window(Waves().batch([0, 1]), draws_at(k))[1] == 2 * chunk)
    draws = draws_at(step)
    batch, begin = method._window(Waves().batch([0, 1]), draws)
    drawn = method._own_draws(batch, begin, draws)["video"]
    _, _, ends = method._teacher_paths(batch, begin, {"video": drawn}, draws)

    def rollout(wam, steps, of_teacher):
        opened = Rollout(
            wam,
            samplers_for(streams, steps={"video": steps, "action": steps}, teacher=of_teacher),
            text=batch.text,
            first={name: x[:, :, :1] for name, x in batch.clean.items()},
        )
        if chunk == 1:
            opened.observe({name: x[:, :, :2] for name, x in batch.history.items()})
        return opened

    noise = {"video": draws.normal("draw/video", drawn.shape[1:]), "action": torch.randn(2, 4, 2, 2, 1)}
    torch.testing.assert_close(rollout(model, 2, False).predict(noise)["video"], drawn, rtol=0, atol=1e-4)
    noise = {name: draws.normal(f"noise/{name}", end.shape[1:]) for name, end in ends.items()}
    expected = rollout(teacher, 1, True).predict(noise, replace={"video": drawn})["action"]
    torch.testing.assert_close(ends["action"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("substeps", [{"video": 3, "action": 3}, {"video": 1, "action": 3}, {"video": 3, "action": 0}])
def test_a_step_equals_one_of_whole_passes(adapted, substeps):
    """Loss and gradients, against four sorts of pass over every token with nothing left out or kept.

    Zero sub-steps stand for a stream without a loss.
    """
    streams = {
        name: StreamSpec.from_config(
            name,
            {
                **spec.config,
                "teacher_substeps": max(1, substeps[name]),
                "weight": float(substeps[name] > 0),
                "regulariser": 0.0,
            },
        )
        for name, spec in STREAMS.items()
    }
    student = make(seed=3)
    config = loop("consistency", lora=LoraConfig(rank=2, alpha=4) if adapted else None)
    method = make_method(config, streams, student, teacher=student if adapted else make(seed=4))
    with torch.no_grad():
        for number, parameter in enumerate(method.roles.model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.05)
    batch, draws = Waves().batch([0, 1]), draws_at(1)
    output = method.loss(batch, draws)
    parameters = [p for p in method.roles.model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(output.loss, parameters, allow_unused=True)

    start = training_levels(method.roles.model, batch, draws, streams)
    path = {
        name: jump_levels(s.schedule, start[name], s.schedule.jump(start[name], s.anchors), substeps[name])
        for name, s in streams.items()
    }
    noisy, sigma, _ = start_states(batch, {name: levels[0] for name, levels in path.items()}, draws)
    x, text, null = dict(noisy), {"text": batch.text}, {"text": batch.null_text.expand_as(batch.text)}
    path = {name: levels.masked_fill(batch.given, 0.0) for name, levels in path.items()}
    scale = 1 + 2 * draws.shared_uniform("guidance/video")
    with torch.no_grad():
        for k in range(3):
            now, after = ({n: p[min(k + i, len(p) - 1)] for n, p in path.items()} for i in (0, 1))
            velocity = method.roles.teacher(x, now, batch.history, text)
            without = method.roles.teacher(x, now, batch.history, null)
            velocity["video"] = without["video"] + scale * (velocity["video"] - without["video"])
            x = {n: x[n] + append_dims(after[n] - now[n], x[n]) * velocity[n] for n in x}
        aimed = method.roles.target(x, {n: p[-1] for n, p in path.items()}, batch.history, text)
    own = method.roles.student(noisy, sigma, batch.history, text)
    expected = torch.zeros(())
    for name, spec in streams.items():
        if spec.weight:
            one = spec.consistency(noisy[name], sigma[name], own[name])
            other = spec.consistency(x[name], path[name][-1], aimed[name])
            elements = pseudo_huber(one, other, c=spec.huber_c)
            expected = expected + reduce_elements(elements, batch.loss_mask(name))[0].mean()
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    of_all = torch.autograd.grad(expected, parameters, allow_unused=True)
    for mine, other in zip(gradients, of_all, strict=True):
        assert (mine is None) <= (other is None or not other.any())
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def draws_at(step: int) -> Draws:
    return Draws(seed=0, step=step, positions=range(2))
