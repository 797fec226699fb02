# SPDX-License-Identifier: Apache-2.0
"""A critic beside the student: turns, optimisers and checkpoints of its own, as a copy or as a third adapter."""

import copy
import json
from pathlib import Path

import pytest
import torch
from distill_toys import ToySource, ToyWam
from safetensors.torch import load_file
from waves import Waves, make

from flashwam.core.streams import StreamSpec
from flashwam.distillation.adapter_file import ADAPTER_FILE
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import DistributionMatching, make_method
from flashwam.distillation.optimizers import learning_rate_factor
from flashwam.distillation.roles import CRITIC, Roles
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig, LoraConfig
from flashwam.student import load_wam

STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "guidance": [3, 3]}),
    "action": StreamSpec.from_config("action", {"shift": 1.0, "weight": 0.1}),
}
LORA = LoraConfig(rank=2, alpha=4, targets=("video", "action", "shared"))


def loop(**changes) -> LoopConfig:
    values = {
        "method": "distribution_matching",
        "options": {"critic_lr": 2e-2},
        "steps": 10,
        "batch_size": 2,
        "lr": 1e-2,
        "warmup_steps": 3,
        "lr_decay": "cosine",
        "save_every": 3,
        "log_every": 1,
        "diagnose_every": 0,
    }
    return LoopConfig(**(values | changes))


def method_of(config: LoopConfig) -> DistributionMatching:
    student = ToyWam.create(seed=1)
    return make_method(config, STREAMS, student, teacher=ToyWam.create(seed=2) if config.lora is None else student)


class Interrupted(Exception):
    pass


class Watching(ToySource):
    """Keeps every role's weights as they are before each step; ends the run in front of step `stop`."""

    def __init__(self, roles: Roles, stop: int | None = None) -> None:
        super().__init__()
        self.roles, self.stop, self.seen = roles, stop, []

    def batch(self, indices):
        if self.stop is not None and indices[0] >= self.stop * len(indices):
            raise Interrupted
        self.seen.append(self.weights())
        return super().batch(indices)

    def weights(self) -> dict[str, torch.Tensor]:
        models = {**self.roles.trained, "teacher": self.roles.teacher}
        return {
            name: torch.cat([p.detach().flatten().clone() for p in model.parameters()])
            for name, model in models.items()
        }


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_the_student_moves_at_every_fifth_step_and_the_critic_at_all(tmp_path, lora):
    config = loop(lora=lora)
    method = method_of(config)
    source = Watching(method.roles)
    train(method, source, config, run_dir=tmp_path, seed=0)
    weights = [*source.seen, source.weights()]
    moved = {
        role: [step for step in range(10) if not torch.equal(weights[step][role], weights[step + 1][role])]
        for role in weights[0]
    }
    assert moved == {"student": [4, 9], "critic": list(range(10)), "teacher": []}
    logged = lines(tmp_path)
    assert [line["step"] for line in logged if "loss" in line] == [5, 10]
    for line in logged:
        factor = learning_rate_factor(line["step"] - 1, config)
        assert line["critic/lr"] == pytest.approx(2e-2 * factor)
        assert line.get("lr", 1e-2 * factor) == pytest.approx(1e-2 * factor)
        assert {"critic/loss", "critic/video/loss", "critic/action/loss", "critic/grad_norm"} <= line.keys()
        assert ("video/ratio" in line) == ("action/dmd_gradient" in line) == ("loss" in line)


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_resumed_between_the_turns_equals_uninterrupted_bit_for_bit(tmp_path, lora):
    config = loop(lora=lora, save_weights="target")
    whole = method_of(config)
    train(whole, ToySource(), config, run_dir=tmp_path / "whole", seed=0)
    for stop in (4, 8):
        # Before the fifth and the ninth step: from the checkpoints of steps 3 and 6, of which the first knows nothing
        # of the student's optimiser and the second one step of it.
        parts = method_of(config)
        with pytest.raises(Interrupted):
            train(parts, Watching(parts.roles, stop), config, run_dir=tmp_path / "parts", seed=0)
    parts = method_of(config)
    train(parts, ToySource(), config, run_dir=tmp_path / "parts", seed=0)
    for role in ("student", CRITIC):
        mine, its = (method.roles.trained[role].state_dict() for method in (whole, parts))
        assert all(torch.equal(value, its[name]) for name, value in mine.items())
    again = [
        [
            {key: value for key, value in line.items() if "seconds" not in key and "per_second" not in key}
            for line in run
        ]
        for run in (lines(tmp_path / "whole"), lines(tmp_path / "parts"))
    ]
    assert again[0] == again[1]
    kept = load_file(tmp_path / "parts/checkpoints/step_000009/state_00000.safetensors")
    steps = {key.split(".")[0]: float(value) for key, value in kept.items() if ".step." in key}
    assert steps == {"optimizer": 1, "critic_optimizer": 9}


def test_a_critic_learns_twice_as_fast_where_nobody_says_how_fast(tmp_path):
    config = loop(options={"student_every": 1}, steps=1)
    train(method_of(config), ToySource(), config, run_dir=tmp_path, seed=0)
    (line,) = lines(tmp_path)
    assert line["critic/lr"] == 2 * line["lr"] > 0


def test_a_run_that_ends_before_the_students_turn_is_refused(tmp_path):
    config = loop(steps=4)
    with pytest.raises(ValueError, match="in 4 steps it is never the student's turn"):
        train(method_of(config), ToySource(), config, run_dir=tmp_path, seed=0)


def test_a_checkpoint_without_a_critic_is_another_trainings(tmp_path):
    plain = loop(method="consistency", options={}, steps=4)
    train(method_of(plain), ToySource(), plain, run_dir=tmp_path, seed=0)
    config = loop()
    (tmp_path / "student").rename(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"another model's: critic\..* is missing"):
        train(method_of(config), ToySource(), config, run_dir=tmp_path, seed=0)


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_deepspeed_is_refused_in_one_sentence(tmp_path, strategy):
    config = loop(strategy=strategy)
    with pytest.raises(ValueError, match=rf"student and critic.*single, ddp, fsdp or lora; got strategy '{strategy}'"):
        train(method_of(config), ToySource(), config, run_dir=tmp_path, seed=0)


def test_the_critic_starts_as_the_teacher_in_the_students_precision(wam):
    teacher = ToyWam.create(seed=2).to(torch.bfloat16)
    roles = Roles(wam, teacher=teacher, critic=True)
    critic = roles.trained[CRITIC]
    for mine, its in zip(critic.parameters(), teacher.parameters(), strict=True):
        assert (mine.dtype, mine.requires_grad, its.requires_grad) == (torch.float32, True, False)
        assert torch.equal(mine, its.float())
        assert mine.data_ptr() != its.data_ptr()
    with pytest.raises(ValueError, match="there is none"):
        Roles(wam, critic=True)


def test_a_third_adapter_leaves_the_teacher_to_the_bit_and_the_student_its_own(tmp_path):
    config = loop(lora=LORA)
    method = method_of(config)
    source = ToySource()
    batch = source.batch([0, 1])
    sigma = {name: torch.full((2, 4), 0.6) for name in batch.clean}

    def velocity(model) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat(
                [v.flatten() for v in model(batch.clean, sigma, batch.history, {"text": batch.text}).values()]
            )

    before = velocity(method.roles.teacher)
    assert torch.equal(velocity(method.roles.trained[CRITIC]), before), "it starts as the teacher"
    train(method, source, config, run_dir=tmp_path, seed=0)
    assert torch.equal(velocity(method.roles.teacher), before)
    student, critic = (velocity(method.roles.trained[role]) for role in ("student", CRITIC))
    assert not torch.equal(student, before)
    assert not torch.equal(student, critic)
    exported, _ = load_wam(tmp_path / "student", trust=True)
    torch.testing.assert_close(velocity(exported), student)
    written = load_file(tmp_path / "student" / ADAPTER_FILE)
    mine = method.roles.model.adapters.parameters("student")
    assert written.keys() == mine.keys()
    assert all(torch.equal(written[name], value) for name, value in mine.items())


def test_recomputed_activations_are_those_of_the_role_whose_turn_it_is():
    """With the student's adapter in the critic's backward pass its gradient would be another one."""
    found = []
    for checkpointing in (False, True):
        model = make()
        if checkpointing:
            model.transformer.gradient_checkpointing = True
            model.train()
        config = loop(lora=LoraConfig(rank=2, alpha=4))
        method = make_method(config, STREAMS, model, teacher=model)
        generator = torch.Generator().manual_seed(3)
        for role in ("student", CRITIC):
            for p in method.roles.trained[role].parameters():
                p.data = torch.randn(p.shape, generator=generator) * 0.1
        model.train(checkpointing)
        batch = Waves().batch([0, 1])
        with method.roles.turn(CRITIC):
            method.critic_loss(batch, Draws(seed=0, step=0, positions=range(2))).loss.backward()
        found.append([copy.copy(p.grad) for p in method.roles.trained[CRITIC].parameters()])
    assert any(p.any() for p in found[0] if p is not None)
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(mine, its)
