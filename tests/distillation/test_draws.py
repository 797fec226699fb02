# SPDX-License-Identifier: Apache-2.0
"""Keyed random numbers: a function of seed, step, position and purpose, of nothing else."""

import traceback

import pytest
import torch

from flashwam.distillation.draws import Draws, keyed_seed


def test_split_of_a_step_changes_no_number():
    whole = Draws(seed=3, step=7, positions=range(6))
    parts = [Draws(seed=3, step=7, positions=range(k, k + 2)) for k in (0, 2, 4)]
    assert torch.equal(whole.normal("n", (2, 3)), torch.cat([p.normal("n", (2, 3)) for p in parts]))
    assert torch.equal(whole.integers("i", 0, 9, (5,)), torch.cat([p.integers("i", 0, 9, (5,)) for p in parts]))
    assert torch.equal(whole.uniform("u"), torch.cat([p.uniform("u") for p in parts]))


@pytest.mark.parametrize("changed", [{"seed": 4}, {"step": 8}, {"positions": [1]}])
def test_every_part_of_the_key_counts(changed):
    key = {"seed": 3, "step": 7, "positions": [0]}
    first, second = Draws(**key), Draws(**(key | changed))
    assert not torch.equal(first.normal("n", (8,)), second.normal("n", (8,)))
    assert not torch.equal(first.normal("n", (8,)), first.normal("m", (8,)))


def test_shared_numbers_do_not_depend_on_the_sample():
    first, second = Draws(seed=3, step=7, positions=[0]), Draws(seed=3, step=7, positions=[5, 6])
    assert first.shared_uniform("w") == second.shared_uniform("w")
    assert first.shared_integer("c", 0, 1000) == second.shared_integer("c", 0, 1000)
    assert first.shared_uniform("w") != Draws(seed=3, step=8, positions=[0]).shared_uniform("w")


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    Draws(seed=0, step=0, positions=range(3)).normal("n", (4,))
    assert torch.equal(before, torch.get_rng_state())


def test_numbers_are_unit_gaussian_over_samples_steps_and_purposes():
    drawn = torch.cat([Draws(seed=0, step=s, positions=range(64)).normal(p, (4,)) for s in range(20) for p in "ab"])
    assert abs(float(drawn.mean())) < 0.04
    assert abs(float(drawn.std()) - 1) < 0.03


def test_dropout_is_a_function_of_seed_step_and_place_and_leaves_no_trace():
    def dropped(**changes):
        with Draws(**{"seed": 1, "step": 2, "positions": range(4), **changes}).seeding_torch():
            return torch.nn.functional.dropout(torch.ones(64))

    before = torch.random.get_rng_state()
    first = dropped()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(dropped(), first)
    for changes in ({"seed": 2}, {"step": 3}, {"positions": range(4, 8)}):
        assert not torch.equal(dropped(**changes), first)


def test_seeding_formats_no_stack(monkeypatch):
    """As torch.manual_seed does for every kind of device that is not in use, which is a sixth of a small step's time."""
    monkeypatch.setattr(traceback, "format_stack", lambda *_, **__: pytest.fail("a stack was formatted"))
    with Draws(seed=0, step=2, positions=[0]).seeding_torch():
        drawn = torch.rand(2)
    seed = keyed_seed(0, 2, 0, "torch")
    assert torch.equal(drawn, torch.rand(2, generator=torch.Generator().manual_seed(seed)))
