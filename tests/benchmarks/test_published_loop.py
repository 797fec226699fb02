# SPDX-License-Identifier: Apache-2.0
"""The captured loop draws what the loop draws that is captured, at fixed addresses."""

from typing import Any

import pytest
import torch
from published_loop import CapturedLoop, PublishedLoop, SlotCache
from tiny_models import tiny_wam
from torch.testing import assert_close

STEPS = {"video": 2, "action": 3}
WINDOW = 5
"""Of three chunks; the third drawn one overwrites the first."""


def loop(kind: type[PublishedLoop], *, history: int, guided: bool = True) -> Any:
    wam = tiny_wam(num_layers=2, window_chunks=WINDOW).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in wam.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * (0.3 if value.ndim < 2 else 0.2))
    text, null = torch.randn(1, 3, 32, generator=generator), torch.randn(3, 32, generator=generator)
    seen = {name: torch.randn(1, c, 2, h, w, generator=generator) for name, (c, h, w) in wam.shapes.items()}
    return kind(wam, text, null, steps=STEPS, guided=guided, seen=seen, history=history)


def drawn(made: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    made.restart()
    made.chunk()
    return dict(made.drawn)


@torch.no_grad()
@pytest.mark.parametrize("guided", [True, False], ids=["guided", "plain"])
@pytest.mark.parametrize("history", [0, 2, 3, 4], ids=lambda count: f"after {count}")
def test_a_captured_chunk_is_the_published_one(history: int, guided: bool) -> None:
    expected = drawn(loop(PublishedLoop, history=history, guided=guided))
    made = loop(CapturedLoop, history=history, guided=guided)
    for _ in range(2):
        # Every time the same chunk of the episode, whatever the one before overwrote.
        got = drawn(made)
        for name, value in expected.items():
            assert float(value.abs().max()) > 0.1
            assert_close(got[name], value, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("history", [1, 4], ids=["young", "full"])
def test_nothing_is_recorded_twice_and_nothing_moves(history: int) -> None:
    made = loop(CapturedLoop, history=history)
    drawn(made)
    recorded, address = dict(made._recorded), made.cache.buffer.data_ptr()
    # Drawing and refreshing see different blocks where actions push the oldest out.
    assert len(recorded) in (2, 3, 4)
    drawn(made)
    assert made._recorded == recorded
    assert made.cache.buffer.data_ptr() == address


@torch.no_grad()
def test_the_observed_past_decides_what_is_drawn() -> None:
    made = loop(CapturedLoop, history=4)
    expected = drawn(made)
    made.cache.buffer.normal_()
    assert not torch.allclose(drawn(made)["action"], expected["action"], atol=1e-3)


def test_a_ring_holds_whole_chunks() -> None:
    with pytest.raises(ValueError, match="must be odd; got 4"):
        SlotCache(1, 1, window=4, tokens={"video": 2, "action": 1}, heads=1, head_dim=2)
