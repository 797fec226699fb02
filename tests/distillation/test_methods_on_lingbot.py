# SPDX-License-Identifier: Apache-2.0
"""Every method on the real architecture, at a size that takes seconds."""

import json

import pytest
import torch

from flashwam.core.batch import Batch
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import make_method
from flashwam.distillation.roles import relative_distance
from flashwam.distillation.trainer import train
from flashwam.recipe import LoopConfig
from flashwam.sampling import Rollout, samplers_for
from flashwam.student import load_wam
from flashwam.wam.lingbot_va import LingBotVA

FRAMES = 4
STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm", "guidance": [1, 3]}),
    "action": StreamSpec.from_config("action", {"shift": 1.0, "regulariser": 0.2}),
}


def make(seed: int = 0) -> LingBotVA:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LingBotVA.create(
            latent_size=(4, 4),
            chunk_frames=2,
            actions_per_frame=2,
            window_chunks=6,
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=20,
            in_channels=3,
            out_channels=3,
            action_dim=4,
            text_dim=8,
            freq_dim=16,
            ffn_dim=64,
            num_layers=2,
        )


class Waves:
    """A moving wave and the speed that moves it."""

    def batch(self, indices):
        rows = []
        for i in indices:
            generator = torch.Generator().manual_seed(i)
            speed = torch.rand((), generator=generator) * 2 - 1
            phase = speed * torch.arange(FRAMES)[:, None, None] + torch.arange(4)[None, :, None] * 0.8
            rows.append((torch.sin(phase).expand(FRAMES, 4, 4).expand(3, -1, -1, -1), speed.expand(4, FRAMES, 2, 1)))
        video, action = (torch.stack(part).contiguous() for part in zip(*rows, strict=True))
        given = torch.zeros(len(rows), FRAMES, dtype=torch.bool)
        given[:, 0] = True
        clean = {"video": video, "action": action.masked_fill(given[:, None, :, None, None], 0.0)}
        mask = {name: torch.ones(len(rows), 1, FRAMES, 1, 1, dtype=torch.bool) for name in clean}
        text = torch.ones(len(rows), 2, 8)
        return Batch(
            clean=clean,
            history=clean,
            mask=mask,
            given=given,
            text=text,
            null_text=torch.zeros(2, 8),
            index=torch.tensor(indices),
        )


def loop(method: str, **changes) -> LoopConfig:
    values = {"steps": 6, "batch_size": 8, "lr": 3e-3, "warmup_steps": 2, "save_every": 3, "log_every": 1}
    return LoopConfig(method=method, **(values | changes))


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


def draws_at(step: int) -> Draws:
    return Draws(seed=0, step=step, positions=range(2))
