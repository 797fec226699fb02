# SPDX-License-Identifier: Apache-2.0
"""Passes of a training with compiled blocks against plain ones: losses, gradients, and how often is compiled."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest
import torch
from counting import CountingCompiler
from distill_toys import ToyWam
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import set_checkpoint_early_stop

from flashwam.wam.base import WorldActionModel
from flashwam.wam.compiling import compiled
from flashwam.wam.guidance import guided_velocity
from flashwam.wam.session import Kept

Make = Callable[..., WorldActionModel]
LAYERS = 3
KINDS = {"lingbot_va": 2, "cogvideox": 1}
"""Functions of a pass: LingBot-VA has two halves of a block."""


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, make_wam: Make, make_cogvideox: Make) -> Make:
    """Makes a model of each family."""
    build = make_wam if request.param == "lingbot_va" else make_cogvideox
    return lambda **changes: build(**({"num_layers": LAYERS} | changes))


def kinds(wam: WorldActionModel) -> int:
    return KINDS["lingbot_va" if hasattr(wam.config, "window_chunks") else "cogvideox"]


def inputs(wam: WorldActionModel, *, seed: int = 0, frames: int | None = None) -> tuple[Any, ...]:
    """Noisy and clean tensors, levels and text of two samples."""
    generator = torch.Generator().manual_seed(seed)
    frames = frames or 2 * wam.chunk_frames if wam.frame_levels else wam.chunk_frames
    draw = [
        {name: torch.randn(2, c, frames, h, w, generator=generator) for name, (c, h, w) in wam.shapes.items()}
        for _ in range(2)
    ]
    level = torch.rand(2, frames if wam.frame_levels else 1, generator=generator).expand(2, frames)
    text = torch.randn(2, 6, 12, generator=generator)
    return draw[0], dict.fromkeys(wam.streams, level), draw[1], {"text": text}


def loss(wam: WorldActionModel, *, seed: int = 0) -> Tensor:
    velocity = wam(*inputs(wam, seed=seed))
    return torch.stack([x.square().mean() for x in velocity.values()]).sum()


def step(wam: WorldActionModel, *, seed: int = 0, half: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of every parameter that has one."""
    wam.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        value = loss(wam, seed=seed)
    value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in wam.named_parameters() if p.grad is not None}


def test_training_passes_equal_plain_ones_and_are_compiled_once_for_all_layers(make: Make) -> None:
    """With and without checkpointing."""
    plain = make()
    compiler = CountingCompiler()
    wam = deepcopy(plain)
    wam.compile_training(backend=compiler)
    for seed in range(2):
        expected, got = step(plain, seed=seed), step(wam, seed=seed)
        assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert len(compiler.graphs) == kinds(wam)
    assert not compiler.complex_numbers

    inner = wam.transformer
    inner.enable_gradient_checkpointing()
    with set_checkpoint_early_stop(False):
        assert_close(step(wam, seed=1), expected, rtol=1e-5, atol=1e-5)
    assert len(compiler.graphs) == kinds(wam)


@torch.no_grad()
def test_frozen_roles_and_deeper_models_share_what_is_compiled(make: Make) -> None:
    compiler = CountingCompiler("eager")
    for change, layers in enumerate((LAYERS, LAYERS, LAYERS + 2)):
        role = make(num_layers=layers).requires_grad_(False).eval()
        for p in role.parameters():
            p.add_(0.01 * change)
        expected = loss(role)
        role.compile_training(backend=compiler)
        assert_close(loss(role), expected, rtol=1e-5, atol=1e-5)
        assert len(compiler.graphs) == kinds(role)


def test_rounded_passes_stay_near_plain_ones(make: Make) -> None:
    """In autocast; compilers fuse what they do between two products, and so round it elsewhere."""
    plain = make(num_layers=2)
    wam = deepcopy(plain)
    wam.compile_training(backend=CountingCompiler("eager"))
    (expected, gradients), (got, own) = step(plain, half=True), step(wam, half=True)
    assert_close(got, expected, rtol=1e-2, atol=1e-2)
    for name, gradient in gradients.items():
        assert (own[name] - gradient).norm() <= 0.05 * gradient.norm() + 1e-4, name


@torch.no_grad()
def test_passes_that_share_their_clean_tokens_are_compiled_too(make_wam: Make) -> None:
    plain = make_wam(num_layers=2)
    wam = deepcopy(plain)
    compiler = CountingCompiler("eager")
    wam.compile_training(backend=compiler)
    noisy, sigma, clean, context = inputs(plain)
    null = torch.linspace(-1, 1, 72).reshape(6, 12)
    options = {"text": context["text"], "null_text": null, "scales": {"video": 2.5, "action": 2.0}}
    kept: dict[str, Kept] = {}
    for time in range(3):
        levels = {name: level / (time + 1) for name, level in sigma.items()}
        expected = guided_velocity(plain, noisy, levels, clean, **options)
        got = guided_velocity(wam, noisy, levels, clean, kept=kept, **options)
        assert_close(got, expected, rtol=1e-5, atol=1e-5)
    # A block's halves where it keeps; then those of a pass over noisy tokens alone.
    assert len(compiler.graphs) == 2 + 2


def test_a_model_that_cannot_be_compiled_says_so() -> None:
    with pytest.raises(ValueError, match="ToyWam has no passes that are compiled; leave compile out"):
        ToyWam().compile_training()


def test_threads_meet_as_many_kinds_of_calls_as_the_first_one() -> None:
    def double(x: Tensor) -> Tensor:
        return 2 * x

    torch.compiler.reset()
    own = compiled(double, backend="eager")
    found = []

    def meet(sizes: range) -> None:
        found.extend(own(torch.ones(size)).shape[0] for size in sizes)

    for sizes in (range(2, 12), range(12, 22)):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(meet, sizes).result()
    assert found == [*range(2, 22)]
