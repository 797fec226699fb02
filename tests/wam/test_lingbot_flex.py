# SPDX-License-Identifier: Apache-2.0
"""Flex attention of the masked pass: its tiles, its gradients, and how often it is compiled."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from counting import CountingCompiler
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import create_block_mask
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flashwam.wam.compiling import compiled
from flashwam.wam.lingbot_va import LingBotVA, flex
from flashwam.wam.lingbot_va.mask_rule import allowed
from flashwam.wam.lingbot_va.masks import teacher_forced_layout

Make = Callable[..., LingBotVA]
SOME = "kv_num_blocks", "kv_indices", "q_num_blocks", "q_indices"


def tokens(frames: int) -> tuple[Tensor, Tensor, int]:
    """Blocks of the noisy and clean tokens of a pass over video alone, 20 tokens a frame and 2 frames a chunk."""
    block = (2 * (torch.arange(frames) // 2)).repeat_interleave(20).repeat(2)
    return block, torch.arange(len(block)) < len(block) // 2, len(block) // 2


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = call(*args, **(kwargs or {}))
        sizes = [value.untyped_storage().nbytes() for value in tree_leaves(result) if isinstance(value, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize(("frames", "window"), [(10, 4), (33, 6), (40, 1000)])
def test_tiles_are_those_of_the_whole_mask(frames: int, window: int) -> None:
    block, is_noisy, noisy = tokens(frames)
    for queries in (noisy, len(block)):
        made = flex.mask_tiles(block, is_noisy, torch.tensor(window), queries)
        rule = lambda b, h, i, j: allowed(block[i], is_noisy[i], block[j], is_noisy[j], window)  # noqa: E731
        whole = create_block_mask(rule, None, None, queries, len(block), device="cpu")
        for kind in SOME:
            for name in (kind, f"full_{kind}"):
                assert torch.equal(getattr(made, name), getattr(whole, name)), name


def test_a_mask_never_lies_in_memory_as_a_whole() -> None:
    """3,840 tokens have a mask of 15 million places, and torch's own way makes several numbers for each."""
    block, is_noisy, _ = tokens(96)
    with Largest() as most:
        flex.mask_tiles(block, is_noisy, torch.tensor(12), len(block))
    assert most.elements <= 8 * flex.SLAB * (len(block) + flex.TILE)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> CountingCompiler:
    """Counts; and lets flex attention take gradients, which torch's kernel for CPUs does not."""
    counter = CountingCompiler()
    monkeypatch.setattr(flex, "compiled", partial(compiled, backend=counter))
    monkeypatch.setattr(flex, "check_gradients", lambda *tensors: None)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    teacher_forced_layout.cache_clear()
    return counter


def loss(wam: LingBotVA, draw: Callable[..., Any], frames: int, streams: tuple[str, ...]) -> Tensor:
    noisy, clean = (draw(wam, 1, frames, seed) for seed in (1, 2))
    sigma = {name: torch.full((1, frames), 0.3 + 0.1 * k) for k, name in enumerate(streams)}
    velocity = wam({n: noisy[n] for n in streams}, sigma, clean, {"text": torch.ones(1, 6, 12)})
    return torch.stack([x.square().mean() for x in velocity.values()]).sum()


def test_one_kernel_serves_every_layer_role_and_length(
    make_wam: Make, draw: Callable, compiler: CountingCompiler
) -> None:
    """One for passes without gradient and one for those with; and their results are those of the dense mask."""
    options = {"latent_size": (8, 16), "actions_per_frame": 8, "num_layers": 3}
    dense, wam = (make_wam(attention=name, **options) for name in ("sdpa", "flex"))
    role = deepcopy(wam).requires_grad_(False)
    kinds = [(8, ("video", "action")), (8, ("video",)), (12, ("video", "action")), (18, ("action",))]
    with torch.no_grad():
        for frames, streams in kinds:
            expected = loss(dense, draw, frames, streams)
            for model in (wam, role):
                assert_close(loss(model, draw, frames, streams), expected, rtol=1e-5, atol=1e-5)
    assert len(compiler.graphs) == 1

    for frames, streams in kinds[:2]:
        for model in (dense, wam):
            model.zero_grad()
            loss(model, draw, frames, streams).backward()
        gradients = [{n: p.grad for n, p in model.named_parameters()} for model in (wam, dense)]
        assert_close(*gradients, rtol=1e-5, atol=1e-5)
    assert len(compiler.graphs) == 2


def test_gradients_on_a_cpu_are_refused_in_plain_words(make_wam: Make, draw: Callable) -> None:
    with pytest.raises(ValueError, match=r"does not support backward on CPU .* wam.config.attention=sdpa"):
        loss(make_wam(attention="flex", num_layers=1), draw, 4, ("video",))


def test_autocast_rounds_as_it_does_for_the_dense_mask(
    make_wam: Make, draw: Callable, compiler: CountingCompiler
) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, got = (loss(make_wam(attention=name, num_layers=1), draw, 4, ("video",)) for name in ("sdpa", "flex"))
    assert_close(got, expected, rtol=2e-2, atol=2e-2)
