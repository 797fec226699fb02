# SPDX-License-Identifier: Apache-2.0
"""Rotations are real numbers, kept on their device, and the same however they are asked for."""

import torch
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.lingbot_va.rope import (
    action_grid,
    action_rotary,
    apply_rotary,
    rotary_table,
    rotated,
    video_grid,
    video_rotary,
)

DIM = 20


def test_a_slice_of_a_page_is_the_table_of_its_frames() -> None:
    """Also where frames lie in two pages or three."""
    for start, frames in ((0, 2), (61, 2), (63, 2), (60, 140)):
        expected = rotary_table(DIM, video_grid(frames, 2, 3, start=start))
        assert torch.equal(video_rotary(DIM, frames, 2, 3, start), expected)
        expected = rotary_table(DIM, action_grid(frames, 4, start=start))
        assert torch.equal(action_rotary(DIM, frames, 4, start), expected)


def test_chunks_of_a_rollout_share_one_table() -> None:
    chunks = [video_rotary(DIM, 2, 2, 3, start) for start in range(0, 60, 2)]
    assert len({chunk.untyped_storage().data_ptr() for chunk in chunks}) == 1


def test_compilers_see_real_numbers_alone_and_turn_alike() -> None:
    seen: list[torch.dtype] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        values = [node.meta.get("example_value") for node in graph.graph.nodes]
        seen.extend(value.dtype for value in values if isinstance(value, Tensor))
        return graph

    x, rotary = torch.randn(2, 12, 3, DIM, dtype=torch.bfloat16), video_rotary(DIM, 2, 2, 3, 5)
    compiled = torch.compile(apply_rotary, backend=backend, fullgraph=True)
    assert_close(compiled(x, rotary), apply_rotary(x, rotary))
    assert seen
    assert not any(dtype.is_complex for dtype in seen)


def test_both_ways_of_turning_have_one_gradient() -> None:
    x, upstream = torch.randn(2, 12, 3, DIM), torch.randn(2, 12, 3, DIM)
    rotary = action_rotary(DIM, 3, 4)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    apply_rotary(one, rotary).backward(upstream)
    rotated(other.unflatten(-1, (-1, 2)), rotary).flatten(-2).backward(upstream)
    assert_close(one.grad, other.grad)
