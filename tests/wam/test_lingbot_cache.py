# SPDX-License-Identifier: Apache-2.0
"""The sliding cache against a plain list of blocks."""

import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from flashwam.wam.lingbot_va.cache import BlockCache

LAYERS, ROWS, HEADS, DIM = 2, 3, 2, 4


def tokens(count: int, rows: int, seed: int) -> Tensor:
    """[3 (q, k, v), layers, rows, heads, count, dim]."""
    return torch.randn(3, LAYERS, rows, HEADS, count, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_attends_to_exactly_the_blocks_in_reach(window: int) -> None:
    chance = random.Random(window)
    cache = BlockCache(LAYERS, ROWS, heads=HEADS, head_dim=DIM, window=window)
    held: list[tuple[int, bool, Tensor]] = []
    seed = 0

    def run(block: int, count: int, rows: int) -> Tensor:
        nonlocal seed
        seed += 1
        new = tokens(count, rows, seed)
        cache.open([(block, count)], rows=rows)
        for layer in range(LAYERS):
            q, k, v = new[:, layer]
            near = [x[1:, layer, :rows] for index, _, x in held if index >= block - window]
            keys, values = torch.cat([*near, new[1:, layer]], dim=3)
            expected = functional.scaled_dot_product_attention(q, keys, values)
            assert_close(cache.attend(layer)(q, k, v), expected)
        return new

    for chunk in range(20):
        sizes = {2 * chunk: chance.choice([3, 6]), 2 * chunk + 1: chance.choice([2, 5])}
        for predicted in (True, False):
            for block, count in sizes.items():
                for _ in range(chance.randrange(3)):
                    run(block, count, chance.choice([1, ROWS]))
                held.append((block, predicted, run(block, count, ROWS)))
                cache.close([(block, predicted)])
            assert any(block.predicted for block in cache.blocks) == predicted
            cache.drop_predicted()
            held = [entry for entry in held if not entry[1]]
        cache.forget(2 * chunk + 2)
        assert [block.index for block in cache.blocks] == list(range(max(0, 2 * chunk + 2 - window), 2 * chunk + 2))


@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_a_pass_over_several_blocks_is_the_blocks_one_after_another(window: int) -> None:
    sizes = [6, 2, 6, 2, 6, 2, 6]
    alone, joint = (BlockCache(LAYERS, ROWS, heads=HEADS, head_dim=DIM, window=window) for _ in range(2))
    new = [tokens(count, ROWS, index) for index, count in enumerate(sizes)]
    expected = []
    for index, part in enumerate(new):
        alone.open([(index, sizes[index])])
        expected.append([alone.attend(layer)(*part[:, layer]) for layer in range(LAYERS)])
        alone.close([(index, False)])
    for first, last in ((0, 2), (3, 3), (4, 6)):
        blocks = range(first, last + 1)
        joint.open([(index, sizes[index]) for index in blocks])
        in_pass = [last, *blocks[:-1]]
        for layer in range(LAYERS):
            q, k, v = torch.cat([new[index][:, layer] for index in in_pass], 3)
            out = joint.attend(layer)(q, k, v).split([sizes[index] for index in in_pass], 2)
            for index, part in zip(in_pass, out, strict=True):
                assert_close(part, expected[index][layer])
            leading = joint.attend(layer)(q[:, :, : sizes[last]], k, v)
            assert_close(leading, expected[last][layer])
        joint.close([(index, False) for index in blocks])
    assert [block.index for block in joint.blocks] == list(range(len(sizes)))


def test_memory_stays_bounded() -> None:
    cache = BlockCache(LAYERS, ROWS, heads=HEADS, head_dim=DIM, window=3)
    sizes = []
    for chunk in range(50):
        for block in (2 * chunk, 2 * chunk + 1):
            cache.open([(block, 4)])
            for layer in range(LAYERS):
                cache.write(layer, *tokens(4, ROWS, block)[1:, layer])
            cache.close([(block, False)])
        cache.forget(2 * chunk + 2)
        sizes.append(cache.buffer.shape[4])
    assert sizes[-1] == sizes[10] <= 2 * 4 * (3 + 3)


def test_a_window_that_hides_the_chunks_own_video_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 block"):
        BlockCache(LAYERS, ROWS, heads=HEADS, head_dim=DIM, window=0)
