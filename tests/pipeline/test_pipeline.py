# SPDX-License-Identifier: Apache-2.0
from copy import deepcopy

import pytest
import torch

from flashwam.pipeline.ready import set_precision
from flashwam.recipe.sections import LoopConfig, LoraConfig
from flashwam.wam.lingbot_va import LingBotVA

TINY = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "ffn_dim": 64,
    "in_channels": 4,
    "out_channels": 4,
    "action_dim": 3,
    "text_dim": 8,
    "freq_dim": 16,
    "latent_size": (4, 4),
    "chunk_frames": 2,
    "actions_per_frame": 2,
    "window_chunks": 4,
}


def dtypes(model):
    return {p.dtype for p in model.parameters()}


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_what_is_trained_is_float32_and_a_teacher_follows_the_passes(stored, precision):
    student, teacher = (LingBotVA.create(**TINY).to(stored) for _ in range(2))
    set_precision(LoopConfig(precision=precision), student, teacher)
    assert dtypes(student) == {torch.float32}
    assert dtypes(teacher) == {torch.bfloat16 if precision == "bf16" else stored}
    set_precision(LoopConfig(precision=precision), student, None)
    assert dtypes(student) == {torch.float32}


@pytest.mark.parametrize("command", ["train", "distill"])
def test_the_backbone_of_adapters_follows_the_passes(command):
    backbone = LingBotVA.create(**TINY)
    loop = LoopConfig(precision="bf16", lora=LoraConfig(rank=2))
    set_precision(loop, backbone, backbone if command == "distill" else None)
    assert dtypes(backbone) == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_a_rounded_teacher_says_what_it_said_under_autocast():
    torch.manual_seed(0)
    student, teacher = LingBotVA.create(**TINY), LingBotVA.create(**TINY)
    # Released weights are bfloat16: rounding takes nothing from them.
    teacher.to(torch.bfloat16).float()
    clean = {name: torch.randn(2, c, 4, h, w) for name, (c, h, w) in teacher.shapes.items()}
    sigma = {name: torch.rand(2, 4) for name in clean}
    whole = deepcopy(teacher)
    set_precision(LoopConfig(precision="bf16"), student, teacher)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before, after = (m.velocity(clean, sigma, clean, {"text": torch.ones(2, 3, 8)}) for m in (whole, teacher))
    for name in clean:
        assert float((after[name] - before[name]).norm() / before[name].norm()) < 1e-2
