# SPDX-License-Identifier: Apache-2.0
"""Pairs with a stream whose distribution is matched, and held by its pairs."""

import json
from dataclasses import replace

import pytest
import torch
from distill_toys import CHUNK, ToyWam
from tiny_models import tiny_wam
from tiny_windows import Windows

from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import ConsistencyDistillation, Pairs
from flashwam.distillation.pair_source import NOISE
from flashwam.distillation.setup import Setup
from flashwam.distillation.trainer import train
from flashwam.plan import plan_training
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import LoopConfig


def streams(**video) -> dict[str, StreamSpec]:
    return {
        "video": StreamSpec.from_config("video", {"shift": 5.0, **video}),
        "action": StreamSpec.from_config("action", {"shift": 1.0}),
    }


@pytest.fixture
def pairs(batch):
    """Samples as a store of pairs gives them, of a past and a chunk."""
    last = {name: x[:, :, -CHUNK:] for name, x in batch.clean.items()}
    noise = {
        f"{NOISE}{name}": torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for name, x in last.items()
    }
    return replace(batch, extra=noise)


def gradient(method: Pairs, pairs) -> torch.Tensor:
    draws = Draws(seed=5, step=0, positions=range(4))
    method.roles.model.zero_grad()
    method.loss(pairs, draws).loss.backward()
    return method.roles.model.outside["video"].weight.grad.clone()


def made(**video) -> Pairs:
    return Pairs(streams(**video), ToyWam.create(seed=1), teacher=ToyWam.create(seed=2))


def test_the_stream_is_matched_with_its_weight_and_held_with_its_regulariser(pairs):
    matched = {"loss": "dmd", "guidance": [3, 3]}
    alone, doubled = gradient(made(**matched), pairs), gradient(made(**matched, weight=2.0), pairs)
    assert alone.any()
    torch.testing.assert_close(doubled, 2 * alone)
    held, plain = gradient(made(**matched, regulariser=0.25), pairs), gradient(made(), pairs)
    torch.testing.assert_close(held, alone + 0.25 * plain)
    output = made(**matched, regulariser=0.25).loss(pairs, Draws(seed=5, step=0, positions=range(4)))
    assert set(output.metrics) == {"video/dmd_gradient", "video/ratio", "video/pairs"}
    assert list(output.terms) == ["video", "action"]


def test_the_teacher_is_kept_for_its_score_and_the_critic_has_the_first_turns(pairs):
    method = Pairs(
        streams(loss="dmd"),
        ToyWam.create(seed=1),
        teacher=ToyWam.create(seed=2),
        dmd={"student_every": 2, "critic_lr": 1e-3},
    )
    assert method.keeps_teacher
    assert [[(turn.role, turn.lr) for turn in method.turns(step)] for step in (0, 1)] == [
        [("critic", 1e-3)],
        [("critic", 1e-3), ("student", None)],
    ]
    for turn in method.turns(1):
        turn.loss(pairs, Draws(seed=5, step=1, positions=range(4))).loss.backward()
        if turn.role == "critic":
            assert all(p.grad is None for p in method.roles.model.parameters())
            assert method.roles.critic.outside["video"].weight.grad.any()
    assert method.roles.model.outside["action"].weight.grad.any()
    plain = made()
    assert not plain.keeps_teacher
    assert plain.roles.critic is None
    assert [turn.role for turn in plain.turns(0)] == ["student"]


def test_it_trains_from_stored_pairs(tmp_path):
    """Every second step is the student's too, and the teacher that drew the pairs is there for its score."""
    specs = streams(loss="dmd", regulariser=0.25, teacher_steps=2)
    teacher = tiny_wam(seed=4)
    method = Pairs(
        specs, tiny_wam(seed=3), teacher=teacher, first_share=None, drawn_at_once=4, dmd={"student_every": 2}
    )
    setup = Setup(data=tmp_path, streams=specs, seed=5, batch_size=2, batches=4)
    source = method.source(Windows(teacher, 2), setup)
    assert method.roles.teacher is teacher
    loop = LoopConfig(method="pairs", steps=4, batch_size=2, lr=1e-3, save_every=2, log_every=1, diagnose_every=0)
    train(method, source, loop, run_dir=tmp_path / "run", seed=0)
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [
        line["step"] for line in logged if {"loss", "video/pairs", "video/ratio", "action/loss"} <= line.keys()
    ] == [2, 4]
    assert [line["step"] for line in logged if "critic/video/loss" in line] == [1, 2, 3, 4]
    assert not any("critic/action/loss" in line for line in logged)


def test_a_loss_that_a_method_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"ConsistencyDistillation has its own loss .*\{'video': 'dmd'\}.* pairs or"):
        ConsistencyDistillation(streams(loss="dmd"), ToyWam.create(), teacher=ToyWam.create())
    with pytest.raises(ValueError, match="stream 'video': loss must be null or one of dmd; got 'gan'"):
        streams(loss="gan")
    with pytest.raises(ValueError, match=r'options.dmd says .* no stream has "loss: dmd"'):
        Pairs(streams(), ToyWam.create(), teacher=ToyWam.create(), dmd={"student_every": 2})
    with pytest.raises(ValueError, match=r"options\.dmd\.critic_rl: unknown key; did you mean 'critic_lr'"):
        Pairs(streams(loss="dmd"), ToyWam.create(), teacher=ToyWam.create(), dmd={"critic_rl": 2})


def test_a_recipe_says_it_and_its_plan_counts_it():
    recipe = load_recipe("metaworld/pairs_dmd2_video")
    assert recipe.streams["video"].loss == "dmd"
    assert StreamSpec.from_config("video", recipe.streams["video"].config) == recipe.streams["video"]
    assert "loss" not in recipe.streams["action"].config
    plan = plan_training(replace(recipe, distill=replace(recipe.distill, batch_size=1)))
    assert plan.roles == ("teacher", "critic")
    share = 0.3 * (1 + 2 / 2) / 2
    assert Pairs.passes_without_gradient(recipe.streams, recipe.distill.options) == pytest.approx(
        share + 1 + (share + 3 + 2) / 2
    )
