# SPDX-License-Identifier: Apache-2.0
"""Attention over a ring is cut up so that every query is there once, with enough programs for a GPU's processors."""

import pytest

from flashwam.wam.lingbot_va.ring_tiles import Launch, launch_for, tiles_of

H100 = {"head_dim": 128, "number_bytes": 2, "processors": 132, "memory": 227 * 1024}
ADA = {"head_dim": 128, "number_bytes": 2, "processors": 76, "memory": 99 * 1024}


@pytest.mark.parametrize("size", [16, 64, 128])
@pytest.mark.parametrize("tokens", [(240, 240, 32), (32, 240), (5,), (32, 0)])
def test_every_query_is_in_one_tile_of_its_own_block(tokens: tuple[int, ...], size: int) -> None:
    found = [(at, block) for first, count, block in tiles_of(tokens, size) for at in range(first, first + count)]
    assert found == [(sum(tokens[:block]) + at, block) for block, count in enumerate(tokens) for at in range(count)]
    assert all(0 < count <= size for _, count, _ in tiles_of(tokens, size))


def test_the_fused_passes_of_the_real_model() -> None:
    """24 heads: 120 large tiles keep the processors busy; 72 would not, so they are halved and split."""
    assert launch_for((240, 240, 32), 24, **H100) == Launch(queries=128, keys=64, splits=1, stages=3, warps=8)
    assert launch_for((32, 240), 24, **H100) == Launch(queries=64, keys=64, splits=2, stages=3, warps=4)


def test_few_queries_share_the_past_among_processors() -> None:
    assert launch_for((32,), 24, **H100).splits == 8
    assert launch_for((240,), 48, **H100).splits == 1


@pytest.mark.parametrize("number_bytes", [2, 4])
@pytest.mark.parametrize("head_dim", [32, 128, 256])
@pytest.mark.parametrize("card", [H100, ADA])
def test_a_program_fits_the_shared_memory(card: dict[str, int], head_dim: int, number_bytes: int) -> None:
    for tokens in ((240, 240, 32), (32,)):
        one = launch_for(tokens, 24, **{**card, "number_bytes": number_bytes, "head_dim": head_dim})
        row = head_dim * number_bytes
        assert one.queries * row + 2 * one.stages * one.keys * row <= card["memory"]
