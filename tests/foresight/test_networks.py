# SPDX-License-Identifier: Apache-2.0
"""Decoupler, resampler and expert: published sizes, symmetries, and who sees what."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from flashwam.core.edm import edm_velocity
from flashwam.foresight.decoupler import Decoupler, change_weights, still
from flashwam.foresight.diffusion_expert import DiffusionExpert
from flashwam.foresight.layers import Attention
from flashwam.foresight.resampler import MeanPool, UniPerceiver

B, C, T, F, H, W = 2, 6, 5, 3, 2, 4


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def randomised(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """In float64 and evaluation mode, every parameter random, so that no term vanishes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.ndim < 2 else p.shape[-1] ** -0.5))
    return module.double().eval()


def rand(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("targets", "expected"), [(768, 106_155_264), (2048, 110_744_064)])
def test_a_decoupler_has_the_published_number_of_parameters(targets, expected):
    with torch.device("meta"):
        assert size(Decoupler(2560, targets)) == expected


def test_the_resampler_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert size(UniPerceiver(5376, 16)) == 19_876_224


def decoupler(**options) -> Decoupler:
    return randomised(Decoupler(C, T, width=8, blocks=2, heads=2, **options))


def test_without_positions_a_decoupler_follows_any_order_of_places_and_frames():
    module, features, reference = decoupler(), rand(B, C, F, H, W), rand(B, T, H, W, seed=2)
    out = module(features, reference)
    assert out.shape == (B, T, F, H, W)
    assert_close(module(features.flip(2), reference), out.flip(2))
    assert_close(module(features.flip(3), reference.flip(2)), out.flip(3))
    assert_close(module(features.roll(1, 4), reference.roll(1, 3)), out.roll(1, 4))


def test_positions_tell_places_apart():
    module = decoupler(positions=(F, H, W))
    out = module(torch.ones(B, C, F, H, W).double(), torch.ones(B, T, H, W).double())
    assert out.flatten(2).std(-1).min() > 1e-3


def test_every_place_of_every_frame_is_seen_by_all():
    module, reference = decoupler(), rand(B, T, H, W, seed=2)
    features = rand(B, C, F, H, W).requires_grad_()
    module(features, reference)[0, :, 0, 0, 0].sum().backward()
    reach = features.grad.abs().sum(1)
    assert (reach[0] > 1e-9).all()
    assert not reach[1].any()


def test_an_untrained_residual_decoupler_says_that_nothing_changes():
    module, reference = Decoupler(C, T, width=8, blocks=1, heads=2, residual=True).double(), rand(B, T, H, W, seed=2)
    assert_close(module(rand(B, C, F, H, W), reference), reference[:, :, None].expand(-1, -1, F, -1, -1))


def test_a_residual_decoupler_adds_the_reference_to_what_it_would_say_without():
    features, reference = rand(B, C, F, H, W), rand(B, T, H, W, seed=2)
    residual, plain = (decoupler(residual=residual)(features, reference) for residual in (True, False))
    assert_close(residual, plain + reference[:, :, None])


def test_a_concatenated_reference_is_normalised_and_projected_with_the_features():
    features, reference = rand(B, C, F, H, W), rand(B, T, H, W, seed=2)
    module = decoupler(reference="concatenated")
    module.blocks = nn.ModuleList()
    place = torch.cat([features[1, :, 2, 0, 3], reference[1, :, 0, 3]])
    expected = module.proj_out(module.norm_out(module.proj_in(module.norm_in(place))))
    assert_close(module(features, reference)[1, :, 2, 0, 3], expected)


def test_a_reference_that_joins_in_another_way_is_refused():
    with pytest.raises(ValueError, match="added or concatenated; got 'mixed'"):
        decoupler(reference="mixed")


def test_a_still_video_is_what_is_seen_before_each_chunk():
    before = rand(B * 2, T, H, W)
    frames = still(before, B, 2 * F)
    for chunk in range(2):
        expected = before.unflatten(0, (B, 2))[:, chunk, :, None].expand(-1, -1, F, -1, -1)
        assert_close(frames[:, :, chunk * F : (chunk + 1) * F], expected)


def test_what_changes_as_much_as_a_mean_element_counts_as_much_more_as_is_said():
    before, change = rand(B, T, H, W), torch.full((B, T, F, H, W), -0.3).double()
    target = still(before, B, F) + change
    assert_close(change_weights(target, before, 2.0), torch.full_like(target, 3.0))
    target[0, 0, 0, 0, 0] = before[0, 0, 0, 0]
    assert change_weights(target, before, 2.0)[0, 0, 0, 0, 0] == 1
    assert (change_weights(target, before, 0.0) == 1).all()
    assert (change_weights(still(before, B, F), before, 2.0) == 1).all()


def test_targets_and_reference_are_standardised_alike():
    module = decoupler().float()
    module.mean.copy_(torch.arange(T))
    module.std.fill_(2.0)
    seen = rand(B, T, F, H, W).float()
    expected = (seen - torch.arange(T)[None, :, None, None, None]) / 2
    assert_close(module.standardise(seen), expected)
    assert_close(module.standardise(seen[:, :, 0]), expected[:, :, 0])
    assert {"mean", "std"} <= set(module.state_dict())


@pytest.mark.parametrize("kind", [UniPerceiver, MeanPool])
def test_tokens_do_not_depend_on_the_order_of_places_but_on_that_of_frames(kind):
    options = {"queries": 3, "depth": 2, "heads": 2, "head_dim": 4} if kind is UniPerceiver else {}
    module, x = randomised(kind(C, F, width=8, **options)), rand(B, C, F, H, W)
    tokens = module(x)
    assert tokens.shape == (B, F * (3 if options else 1), 8)
    assert_close(module(x.flip(3)), tokens)
    assert (module(x.flip(2)) - tokens).abs().max() > 1e-2


def test_queries_look_at_their_own_frame_and_across_frames_in_every_slot():
    """After one layer a token knows its slot of every frame, and so every place."""
    module = randomised(UniPerceiver(C, F, width=8, queries=3, depth=1, heads=2, head_dim=4))
    x = rand(B, C, F, H, W).requires_grad_()
    module(x)[0, 0].sum().backward()
    reach = x.grad.abs().sum(1)
    assert (reach[0] > 1e-9).all()
    assert not reach[1].any()


def expert(**options) -> DiffusionExpert:
    return DiffusionExpert(
        4, F, 2, token_channels=8, text=5, width=16, encoder=1, decoder=2, heads=2, dropout=0.0, **options
    )


def test_the_goal_is_the_same_whatever_the_text_is_padded_to():
    module, tokens, text = randomised(expert()), rand(B, 7, 8), rand(B, 3, 5)
    padded = torch.cat([text, torch.zeros(B, 509, 5).double()], 1)
    assert_close(module.encode(tokens, padded), module.encode(tokens, text))
    # Samples of one batch have texts of several lengths, and one without any text has a goal all the same.
    text[1, 1:] = 0
    assert_close(module.encode(tokens, text)[1:], module.encode(tokens[1:], text[1:, :1]))
    assert torch.isfinite(module.encode(tokens, torch.zeros(B, 3, 5).double())).all()


def test_an_untrained_expert_is_the_best_guess_for_data_of_that_spread():
    module = expert(sigma_data=0.4).double()
    noisy, sigma = rand(B, 4, F, 2, 1), torch.tensor([[0.0, 0.3, 0.9], [1.0, 1.0, 1.0]]).double()
    velocity = module(noisy, sigma, module.encode(rand(B, 7, 8), rand(B, 3, 5)))
    level = sigma[:, None, :, None, None]
    assert_close(velocity, edm_velocity(noisy, torch.zeros_like(noisy), level, sigma_data=0.4))


def test_an_expert_is_finite_at_both_ends_in_float32():
    module = randomised(expert()).float()
    noisy = rand(B, 4, F, 2, 1).float()
    seen = module.encode(rand(B, 7, 8).float(), rand(B, 3, 5).float())
    for level in (0.0, 1e-6, 1.0):
        velocity = module(noisy, torch.full((B, F), level), seen)
        assert velocity.dtype == torch.float32
        assert torch.isfinite(velocity).all()


def test_actions_see_earlier_actions_and_all_tokens():
    module = randomised(expert())
    noisy, tokens = rand(B, 4, F, 2, 1).requires_grad_(), rand(B, 7, 8, seed=3).requires_grad_()
    text = rand(B, 3, 5, seed=4).requires_grad_()
    velocity = module(noisy, torch.full((B, F), 0.7).double(), module.encode(tokens, text))
    velocity[0, :, 1, 0].sum().backward()
    reach = noisy.grad.abs().sum(1)[0, ..., 0]
    assert (reach.flatten() > 1e-9).tolist() == [True] * 3 + [False] * 3
    assert (tokens.grad[0].abs().sum(-1) > 1e-9).all()
    assert (text.grad[0].abs().sum(-1) > 1e-9).all()
    assert not tokens.grad[1].any()


def test_every_frame_stands_at_its_own_level():
    module = randomised(expert())
    noisy, seen = rand(B, 4, F, 2, 1), module.encode(rand(B, 7, 8), rand(B, 3, 5))
    sigma = torch.full((B, F), 0.7).double()
    last = sigma.clone()
    last[:, -1] = 0.2
    same = module(noisy, sigma, seen) - module(noisy, last, seen)
    assert not same[:, :, :-1].any()
    assert (same[:, :, -1].abs() > 1e-6).all()


def test_training_reaches_every_parameter_of_an_expert():
    module = expert()
    for _ in range(3):
        seen = module.encode(rand(B, 7, 8).float(), rand(B, 3, 5).float())
        module(rand(B, 4, F, 2, 1).float(), torch.rand(B, F), seen).square().mean().backward()
        with torch.no_grad():
            for p in module.parameters():
                p.sub_(0.1 * p.grad)
    assert all(p.grad.abs().sum() > 0 for p in module.parameters())


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of their number; got 10 and 4 heads"):
        Attention(10, 4)
