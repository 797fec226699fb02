# SPDX-License-Identifier: Apache-2.0
"""Hidden states of both families: what the blocks put out, in training and in a rollout, at the price of no more."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from flashwam.distillation.adapted_model import adapted
from flashwam.distillation.adapters import Adapters
from flashwam.recipe.sections import LoraConfig
from flashwam.wam import WorldActionModel
from flashwam.wam.features import LookingReplay
from flashwam.wam.session import RolloutSession
from flashwam.wam.taps import FeatureTap

CHUNK, CHUNKS, BATCH = 2, 4, 2


class Case:
    """A model of a family, its blocks, and tensors that `velocity` takes."""

    def __init__(self, wam: WorldActionModel, blocks: nn.ModuleList, frames: int, past: int, text: Tensor) -> None:
        self.wam, self.blocks, self.frames = wam, blocks, frames
        generator = torch.Generator().manual_seed(3)
        draw = {
            key: {
                name: torch.randn(BATCH, c, count, *size, generator=generator)
                for name, (c, *size) in wam.shapes.items()
            }
            for key, count in (("noisy", frames), ("clean", past))
        }
        self.noisy, self.clean = draw["noisy"], draw["clean"]
        self.sigma = {name: torch.ones(BATCH, frames) for name in wam.streams}
        self.context = {"text": text}

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.noisy, self.sigma, self.clean, self.context


@pytest.fixture(params=["lingbot_va", "cogvideox"])
def case(request: pytest.FixtureRequest, make_wam: Callable, make_cogvideox: Callable) -> Case:
    generator = torch.Generator().manual_seed(4)
    text = torch.randn(BATCH, 6, 12, generator=generator)
    if request.param == "lingbot_va":
        wam = make_wam()
        return Case(wam, wam.transformer.blocks, CHUNK * CHUNKS, CHUNK * CHUNKS, text)
    wam = make_cogvideox(num_layers=3)
    return Case(wam, wam.transformer.transformer_blocks, 3, 4, text)


def outputs(case: Case) -> list[Tensor]:
    """Every block's video tokens in a whole pass, [B, F, h, w, D], by hooks of the test's own."""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: Any, out: Any) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)

    hooks = [block.register_forward_hook(note) for block in case.blocks]
    case.wam.velocity(*case.parts)
    for hook in hooks:
        hook.remove()
    height, width = case.noisy["video"].shape[3:]
    grid = (case.frames, height // 2, width // 2)
    return [h[:, : grid[0] * grid[1] * grid[2]].unflatten(1, grid) for h in seen]


@torch.no_grad()
@pytest.mark.parametrize("blocks", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_features_are_the_normalised_outputs_of_the_blocks(case: Case, blocks: tuple[int, ...]) -> None:
    got = case.wam.features(*case.parts, blocks=blocks)
    expected = torch.cat([functional.layer_norm(h, h.shape[-1:]) for h in (outputs(case)[b] for b in blocks)], -1)
    assert_close(got, expected.movedim(-1, 1), atol=2e-5, rtol=1e-5)
    assert got.shape[1] == case.wam.feature_width(blocks)
    assert case.wam.feature_blocks == len(case.blocks)


@torch.no_grad()
def test_no_deeper_block_runs(case: Case) -> None:
    ran = []
    for number, block in enumerate(case.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    case.wam.features(*case.parts, blocks=(0, 1))
    assert ran == [0, 1]


@pytest.mark.parametrize("blocks", [(), (3,), (-1,), (1, 0), (1, 1), (0.5,), (True,), 1, "12"])
def test_blocks_that_do_not_exist_or_repeat_are_refused(case: Case, blocks: Any) -> None:
    with pytest.raises(ValueError, match=r"blocks must be some of 0\.\.2, ascending"):
        case.wam.features(*case.parts, blocks=blocks)


def test_gradients_reach_what_runs_and_nothing_deeper(case: Case) -> None:
    case.wam.features(*case.parts, blocks=(1,)).square().mean().backward()
    reached = [any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters()) for block in case.blocks]
    assert reached == [True, True, False]


def walk(case: Case, session: RolloutSession, blocks: tuple[int, ...], *, velocities: bool) -> list[Tensor]:
    """Features of every chunk under the true past; between them the velocities that a rollout asks for."""
    found = []
    first = case.wam.conditions_on_first
    size = case.wam.chunk_frames
    if first:
        for name in case.wam.streams:
            session.append(name, case.clean[name][:, :, :1], predicted=False)
        session.advance(1)
    for start in range(0, case.frames, size):
        at = slice(start, start + size)
        noisy = {name: x[:, :, at] for name, x in case.noisy.items()}
        sigma = {name: level[:, at] for name, level in case.sigma.items()}
        if blocks:
            found.append(session.features(noisy, sigma, blocks=blocks))
        for stage in case.wam.stages if velocities else ():
            drawn = [{name: part[name] for name in stage} for part in (noisy, sigma)]
            found.append(torch.cat([v.flatten() for v in session.velocity(*drawn).values()]))
            if stage != case.wam.stages[-1]:
                for name in stage:
                    session.append(name, case.clean[name][:, :, at], predicted=True)
        session.drop_predicted()
        if not first:
            for name in case.wam.streams:
                session.append(name, case.clean[name][:, :, at], predicted=False)
            session.advance(size)
    return found


@torch.no_grad()
@pytest.mark.parametrize("kind", ["session", "feature_session", "replay"])
def test_a_rollout_sees_what_the_training_pass_sees(case: Case, kind: str) -> None:
    blocks = (0, 1)
    text = case.context["text"]
    session = {
        "session": lambda: case.wam.session(text),
        "feature_session": lambda: case.wam.feature_session(text, blocks=blocks),
        "replay": lambda: LookingReplay(case.wam, text),
    }[kind]()
    clean = case.clean
    if case.wam.conditions_on_first:
        clean = {name: x[:, :, : case.frames] for name, x in clean.items()}
    whole = case.wam.features(case.noisy, case.sigma, clean, case.context, blocks=blocks)
    got = torch.cat(walk(case, session, blocks, velocities=False), 2)
    assert_close(got, whole, atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True])
def test_looking_changes_nothing_that_is_drawn(case: Case, static: bool) -> None:
    """The same velocities with features between them as without."""
    options = {} if case.wam.conditions_on_first else {"static": static}

    null, guidance = torch.zeros(6, 12), dict.fromkeys(case.wam.streams, 2.0)
    walks = []
    for looks in (True, False):
        session = case.wam.session(case.context["text"], null_text=null, guidance=guidance, **options)
        walks.append(walk(case, session, (1,) if looks else (), velocities=True))
    looked = [part for part in walks[0] if part.ndim == 1]
    assert len(looked) == len(walks[1]) < len(walks[0])
    for ours, blind in zip(looked, walks[1], strict=True):
        assert_close(ours, blind, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_session_for_features_keeps_and_runs_no_deeper_block(case: Case) -> None:
    session = case.wam.feature_session(case.context["text"], blocks=(0,))
    ran = []
    for number, block in enumerate(case.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    walk(case, session, (0,), velocities=False)
    assert set(ran) == {0}
    if case.wam.conditions_on_first:
        return
    with pytest.raises(RuntimeError, match="runs 1 blocks, for features alone"):
        session.velocity({"video": case.noisy["video"][:, :, :2]}, {"video": case.sigma["video"][:, :2]})


@torch.no_grad()
def test_a_role_with_an_adapter_is_looked_into_with_it(case: Case) -> None:
    plain = case.wam.features(*case.parts, blocks=(0, 1))
    count = case.wam.deployed_parameters()
    adapters = Adapters(case.wam, LoraConfig(rank=2), seed=0)
    role = adapted(adapters, "student")
    assert_close(role.features(*case.parts, blocks=(0, 1)), plain, atol=1e-6, rtol=1e-6)
    for p in role.parameters():
        p.normal_(std=0.3)
    moved = role.features(*case.parts, blocks=(0, 1))
    assert (moved - plain).abs().max() > 1e-2
    session = role.feature_session(case.context["text"], blocks=(0, 1))
    clean = {name: x[:, :, : case.frames] for name, x in case.clean.items()}
    expected = role.features(case.noisy, case.sigma, clean, case.context, blocks=(0, 1))
    assert_close(torch.cat(walk(case, session, (0, 1), velocities=False), 2), expected, atol=5e-5, rtol=1e-4)
    assert role.deployed_parameters() == count
    assert role.feature_width((0, 1)) == case.wam.feature_width((0, 1))


def test_half_precision_is_normalised_in_float32() -> None:
    tap = FeatureTap((0,), 1)
    tap.take(0, (10 + torch.randn(1, 6, 8)).bfloat16())
    maps = tap.maps((3, 2, 1))
    assert maps.dtype == torch.float32
    assert_close(maps.var(1, correction=0), torch.ones(1, 3, 2, 1), atol=1e-4, rtol=0)
