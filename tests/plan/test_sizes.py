# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from flashwam.plan.sizes import activation_bytes, adapter_parameters, model_size
from flashwam.wam.cogvideox import CogVideoX
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


JOINT_MODEL = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    # The modulation of a block gives out more than its feed-forward, once a sample.
    "time_embed_dim": 64,
    "text_embed_dim": 32,
    "in_channels": 12,
    "out_channels": 6,
    "use_rotary_positional_embeddings": True,
    "latent_size": (16, 16),
    "chunk_frames": 3,
    "actions_per_frame": 4,
    "action_dim": 4,
}


def kept_bytes(model, tokens, text, *, half):
    """Bytes of what a pass saves for its backward pass, where video and actions stand at levels of their own."""
    frames = 3 if isinstance(model, CogVideoX) else 8
    clean = {name: torch.randn(1, c, frames, h, w) for name, (c, h, w) in model.shapes.items()}
    sigma = {name: torch.full((1, frames), 0.5 if name == "video" else 0.3) for name in clean}
    # A weight or its cast copy is no activation, and what has a side of all tokens is the mask, which the CPU's
    # attention alone keeps in every block.
    weights = {shape for p in model.parameters() for shape in (p.shape, p.shape[::-1])}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if tensor.shape not in weights and tensor.shape[-1:] not in ((tokens,), (tokens + text,)):
            saved.setdefault(storage.data_ptr(), (storage.nbytes(), tensor))
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=half),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        model.velocity(clean, sigma, clean, {"text": torch.randn(1, text, 32)})
    return sum(size for size, _ in saved.values())


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [(LingBotVA, TINY_MODEL, 16), (CogVideoX, JOINT_MODEL, 16), (CogVideoX, JOINT_MODEL, 200)],
)
def test_activation_estimate_meets_the_saved_tensors(kind, options, text, half, checkpointing):
    joint = {"max_text_seq_length": text} if kind is CogVideoX else {}
    kept, planned = {}, {}
    for layers in (2, 4):
        model = kind.create(num_layers=layers, gradient_checkpointing=checkpointing, **joint, **options)
        tokens = model.pass_tokens(8)
        kept[layers] = kept_bytes(model, tokens, text, half=half)
        about = {"tokens": tokens, "text_tokens": text, "samples": 1, "half": half, "checkpointing": checkpointing}
        planned[layers] = activation_bytes(model_size(model), **about)
    assert planned[4] - planned[2] == pytest.approx(kept[4] - kept[2], rel=0.15)


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
