# SPDX-License-Identifier: Apache-2.0
"""Closed loops far past the window: the original's cache never gives back what some pass pushed out of it."""

from collections.abc import Callable

import pytest
import torch
from lingbot_loops import Drawn, labelled_loop
from original_cache import with_original_cache
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.lingbot_va import LingBotVA
from flashwam.wam.session import RolloutSession

Draw = Callable[..., dict[str, Tensor]]
BATCH, CHUNK, CHUNKS = 2, 2, 7
TOKENS = 2 * CHUNK * 2 + CHUNK * 4  # video of 2 x 2 patches a frame, 4 actions a frame
TEXT = torch.randn(BATCH, 6, 12, generator=torch.Generator().manual_seed(4))
NULL = torch.randn(6, 12, generator=torch.Generator().manual_seed(6))
CASES = [(1, None), (2, {"video": 3.0}), (2, {"action": 2.0}), (3, {"video": 3.0, "action": 2.0})]


@pytest.fixture
def wam(make_wam: Callable[..., LingBotVA]) -> LingBotVA:
    return make_wam()


@pytest.fixture
def seen(wam: LingBotVA, draw: Draw) -> dict[str, Tensor]:
    """The pictures and controls that the robot turns out to have, whatever was imagined."""
    return draw(wam, BATCH, CHUNKS * CHUNK, 1)


def closed_loop(
    session: RolloutSession, seen: dict[str, Tensor], steps: dict[str, int], *, imagined: tuple[str, ...]
) -> Drawn:
    return labelled_loop(session, seen, steps, chunk=CHUNK, chunks=CHUNKS, imagined=imagined)


def assert_same(drawn: Drawn, expected: Drawn) -> None:
    for (what, one), (_, other) in zip(drawn, expected, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-4, msg=lambda text, what=what: f"{what}: {text}")


@pytest.mark.parametrize(("chunks", "guidance"), CASES, ids=["1-none", "2-v", "2-a", "3-va"])
@pytest.mark.parametrize("steps", [{"video": 1, "action": 1}, {"video": 2, "action": 3}], ids=["1v1a", "2v3a"])
def test_closed_loop_equals_one_on_the_original_cache(
    wam: LingBotVA, seen: dict[str, Tensor], chunks: int, steps: dict[str, int], guidance: dict[str, float] | None
) -> None:
    options = {"null_text": NULL, "guidance": guidance, "window_chunks": 2 * chunks - 1}
    original = with_original_cache(wam.session(TEXT, fused=False, **options), chunk_tokens=TOKENS, chunks=chunks)
    # The original keeps the actions that it drew, too, until it hears what was done.
    expected = closed_loop(original, seen, steps, imagined=("video", "action"))
    for static in (False, True):
        for fused in (False, True):
            session = wam.session(TEXT, eviction="permanent", static=static, fused=fused, **options)
            assert_same(closed_loop(session, seen, steps, imagined=("video",)), expected)


def test_rules_part_where_the_cache_is_full_and_not_before(wam: LingBotVA, seen: dict[str, Tensor]) -> None:
    """A cache of three chunks is full with the fourth; the refresh of its video is what differs, and all that follows."""
    steps = {"video": 1, "action": 1}
    masked, permanent = (
        closed_loop(wam.session(TEXT, window_chunks=5, eviction=rule), seen, steps, imagined=("video",))
        for rule in ("mask", "permanent")
    )
    same = 2 * 4
    assert_same(masked[:same], permanent[:same])
    assert all(
        (one - other).abs().max() > 1e-3 for (_, one), (_, other) in zip(masked[same:], permanent[same:], strict=True)
    )


@pytest.mark.parametrize("static", [False, True])
def test_observed_video_reaches_a_block_less_than_all_else(
    wam: LingBotVA, seen: dict[str, Tensor], static: bool
) -> None:
    """Measured in blocks, at the refresh of the last chunk, when a window of 5 is full."""
    session = wam.session(TEXT, window_chunks=5, eviction="permanent", static=static, fused=False)
    reach: dict[int, int] = {}
    original = session._cache.open

    def note(blocks: list[tuple[int, int]], *, first: list[int], rows: int | None) -> None:
        reach.update({index: index - lowest for (index, _), lowest in zip(blocks, first, strict=True)})
        original(blocks, first=first, rows=rows)

    session._cache.open = note
    closed_loop(session, seen, {"video": 1, "action": 1}, imagined=("video",))
    last = 2 * (CHUNKS - 1)
    assert (reach[last], reach[last + 1]) == (4, 5)


def test_an_unknown_rule_is_refused(wam: LingBotVA, make_wam: Callable[..., LingBotVA]) -> None:
    for call in (lambda: wam.session(TEXT, eviction="ring"), lambda: make_wam(eviction="ring")):
        with pytest.raises(ValueError, match="eviction must be one of mask, permanent; got 'ring'"):
            call()
