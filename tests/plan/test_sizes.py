# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from flashwam.plan.sizes import activation_bytes, adapter_parameters, model_size
from flashwam.wam.lingbot_va import LingBotVA

TINY_MODEL = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "ffn_dim": 512,
    "in_channels": 6,
    "out_channels": 6,
    "action_dim": 4,
    "text_dim": 32,
    "freq_dim": 64,
    "latent_size": (8, 8),
    "chunk_frames": 2,
    "actions_per_frame": 4,
    "window_chunks": 8,
}


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activation_estimate_meets_the_saved_tensors(half, checkpointing):
    blocks, text = {}, 16
    for layers in (2, 4):
        model = LingBotVA.create(num_layers=layers, gradient_checkpointing=checkpointing, **TINY_MODEL)
        clean = {name: torch.randn(1, c, 8, h, w) for name, (c, h, w) in model.shapes.items()}
        sigma = {name: torch.full((1, 8), 0.5) for name in clean}
        # A weight or its cast copy is no activation, and what has a side of all tokens is the mask, which the CPU's
        # attention alone keeps in every block.
        weights = {shape for p in model.parameters() for shape in (p.shape, p.shape[::-1])}
        tokens = model.pass_tokens(8)
        saved = {}

        def keep(tensor, weights=weights, tokens=tokens, saved=saved):
            storage = tensor.untyped_storage()
            if tensor.shape not in weights and tensor.shape[-1:] != (tokens,):
                saved.setdefault(storage.data_ptr(), (storage.nbytes(), tensor))
            return tensor

        with (
            torch.autocast("cpu", torch.bfloat16, enabled=half),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            model.velocity(clean, sigma, clean, {"text": torch.randn(1, text, 32)})
        blocks[layers] = sum(size for size, _ in saved.values())
    each = {
        layers: activation_bytes(
            model_size(LingBotVA.create(num_layers=layers, **TINY_MODEL)),
            tokens=tokens,
            text_tokens=text,
            samples=1,
            half=half,
            checkpointing=checkpointing,
        )
        for layers in blocks
    }
    assert each[4] - each[2] == pytest.approx(blocks[4] - blocks[2], rel=0.15)


def test_tokens_of_a_pass_are_those_the_blocks_see():
    model = LingBotVA.create(num_layers=2, **TINY_MODEL)
    seen = []
    model.transformer.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    for frames in (2, 5, 8):
        clean = {name: torch.randn(1, c, frames, h, w) for name, (c, h, w) in model.shapes.items()}
        sigma = {name: torch.full((1, frames), 0.5) for name in clean}
        with torch.no_grad():
            model.velocity(clean, sigma, clean, {"text": torch.randn(1, 3, 32)})
    assert seen == [model.pass_tokens(frames) for frames in (2, 5, 8)]


def test_size_of_any_module_and_its_adapters():
    block = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 20), nn.Linear(20, 8))
    model = nn.ModuleDict({"into": nn.Linear(3, 8), "blocks": nn.ModuleList([block, block])})
    model["blocks"][1] = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 20), nn.Linear(20, 8))
    one = 2 * (8 * 8 + 8) + (8 * 20 + 20) + (20 * 8 + 8)
    size = model_size(model)
    assert (size.parameters, size.layers, size.block) == (2 * one + 3 * 8 + 8, 2, one)
    assert (size.width, size.inner, size.unit) == (8, 20, one)
    assert adapter_parameters(model, 2) == 2 * 2 * (16 + 16 + 28 + 28)
    assert adapter_parameters(model, 2, ("blocks.0.0", "into")) == 2 * (16 + 11)
    with pytest.raises(ValueError, match="no linear layer"):
        model_size(nn.Conv1d(2, 2, 1))
