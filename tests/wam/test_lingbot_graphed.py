# SPDX-License-Identifier: Apache-2.0
"""Recorded passes draw what passes that are computed draw, whatever came before them, and are recorded once."""

import gc
import logging
import weakref
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from lingbot_loops import drawn_chunks
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.lingbot_va import LingBotVA
from flashwam.wam.lingbot_va.graphed import Lanes
from flashwam.wam.recording import CallRecorder, Recording
from flashwam.wam.session import RolloutSession

Draw = Callable[..., dict[str, Tensor]]
BATCH, CHUNK, CHUNKS = 1, 2, 10
TEXT = torch.randn(BATCH, 6, 12, generator=torch.Generator().manual_seed(4))
NULL = torch.randn(6, 12, generator=torch.Generator().manual_seed(6))
ONE, MANY = {"video": 1, "action": 1}, {"video": 2, "action": 3}


@pytest.fixture
def wam(make_wam: Callable[..., LingBotVA]) -> LingBotVA:
    """Its passes are recorded call by call; its window is full after five chunks."""
    return recording(make_wam(rollout="graphed", window_chunks=9, num_layers=2))


@pytest.fixture
def seen(wam: LingBotVA, draw: Draw) -> dict[str, Tensor]:
    return draw(wam, BATCH, CHUNKS * CHUNK, 1)


def recording(wam: LingBotVA, **options: object) -> LingBotVA:
    wam.lanes = Lanes(CallRecorder(), **({"compiled": False} | options))
    return wam


def closed_loop(
    session: RolloutSession, seen: dict[str, Tensor], steps: dict[str, int], *, chunks: int = CHUNKS
) -> list[Tensor]:
    return drawn_chunks(session, seen, steps, chunk=CHUNK, chunks=chunks)


def assert_same(drawn: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(drawn, expected, strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("eviction", ["mask", "permanent"])
@pytest.mark.parametrize(
    ("steps", "guidance"), [(ONE, None), (MANY, None), (MANY, {"video": 3.0}), (ONE, {"action": 2.0})]
)
def test_replays_draw_what_computed_passes_draw_and_a_second_episode_records_nothing(
    wam: LingBotVA, seen: dict[str, Tensor], steps: dict[str, int], guidance: dict[str, float], eviction: str
) -> None:
    options = {"null_text": NULL, "guidance": guidance, "eviction": eviction}
    closed_loop(wam.session(TEXT, **options), seen, steps)
    recorded = wam.lanes.recorded
    other_seen = {stream: x.flip(2) for stream, x in seen.items()}
    other_text = TEXT.flip(1)
    drawn = closed_loop(wam.session(other_text, **options), other_seen, steps)
    expected = closed_loop(wam.session(other_text, static=False, **options), other_seen, steps)
    assert_same(drawn, expected)
    assert wam.lanes.recorded == recorded > 0


def test_16_bit_replays_stay_within_what_rounding_does_to_plain_passes(wam: LingBotVA, seen: dict[str, Tensor]) -> None:
    def error(found: list[Tensor], expected: list[Tensor]) -> float:
        one, other = (torch.cat([x.float().flatten() for x in drawn]) for drawn in (found, expected))
        return float((one - other).norm() / other.norm())

    exact = closed_loop(wam.session(TEXT, static=False), seen, MANY)
    half = recording(deepcopy(wam).bfloat16())
    plain = closed_loop(half.session(TEXT, static=False), seen, MANY)
    replayed = closed_loop(half.session(TEXT), seen, MANY)
    assert half.lanes.recorded > 0
    assert 0 < error(replayed, plain) < error(plain, exact) < 0.05
    assert error(replayed, exact) < 1.5 * error(plain, exact)


@pytest.mark.parametrize("static", [True, None], ids=["static", "graphed"])
def test_a_float32_model_under_autocast_draws_what_its_dynamic_rollout_draws(
    wam: LingBotVA, seen: dict[str, Tensor], static: bool | None
) -> None:
    """As a student is driven in a training of mixed precision: its past is in the text's numbers, its passes are not."""
    exact = closed_loop(wam.session(TEXT, static=False), seen, ONE)
    with torch.autocast("cpu", torch.bfloat16):
        plain = closed_loop(wam.session(TEXT, static=False), seen, ONE)
        drawn = closed_loop(wam.session(TEXT, static=static), seen, ONE)
    for one, other in zip(drawn, plain, strict=True):
        assert_close(one.float(), other.float(), atol=0.06, rtol=0.06)
    # What was recorded under autocast is not replayed outside of it.
    assert_same(closed_loop(wam.session(TEXT, static=static), seen, ONE), exact)


def test_blocks_are_compiled_once_for_a_number_of_tokens(wam: LingBotVA, seen: dict[str, Tensor]) -> None:
    """Whatever the layer, the length of the past, the lane, the model, and whether passes are recorded."""
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    torch.compiler.reset()
    recording(wam, compiled=True, backend=backend)
    expected = closed_loop(wam.session(TEXT, static=False), seen, ONE)
    opened = [wam.session(TEXT)]
    assert_same(closed_loop(opened[0], seen, ONE), expected)
    # Two functions for each of: the first chunk's video; video with what was seen; actions with drawn video; and what
    # the last layer makes of the latter two, for the tokens that are drawn alone.
    assert len(compiled) == 2 * 5
    copied = deepcopy(wam)
    copied.transformer.compile_rollout(backend=backend)
    opened += [wam.session(TEXT), copied.session(TEXT)]
    for session in opened[1:]:
        assert_same(closed_loop(session, seen, ONE), expected)
    assert len(compiled) == 2 * 5
    assert_same(closed_loop(copied.session(TEXT, static=True), seen, ONE), expected)
    # Passes that are not recorded have queries, keys and values apart, save the last layer's, which has so anyway.
    assert len(compiled) == 2 * 5 + 3


def test_passes_take_nothing_from_the_host(
    make_wam: Callable[..., LingBotVA], caplog: pytest.LogCaptureFixture
) -> None:
    """Recorded on a device that is not the host's: whatever a pass copied would go from one to the other."""
    wam = recording(make_wam(rollout="graphed", window_chunks=1, num_layers=1).to("meta"))
    session = wam.session(TEXT.to("meta"))
    chunk = {stream: torch.empty(BATCH, c, CHUNK, h, w, device="meta") for stream, (c, h, w) in wam.shapes.items()}
    for _ in range(4):
        for stream, x in chunk.items():
            session.velocity({stream: x}, {stream: torch.empty(BATCH, CHUNK, device="meta")})
            session.append(stream, x, predicted=True)
        session.drop_predicted()
        for stream, x in chunk.items():
            session.append(stream, x, predicted=False)
        session.advance(CHUNK)
    assert wam.lanes.recorded == 3
    assert not caplog.records


def test_recordings_stay_with_their_addresses(wam: LingBotVA, seen: dict[str, Tensor]) -> None:
    def addresses() -> tuple[int, ...]:
        session = wam.session(TEXT)
        closed_loop(session, seen, ONE)
        cache = session._lane.cache
        return (cache.buffer.data_ptr(), cache.control.data_ptr(), *(k.data_ptr() for k, _ in session._lane.text))

    assert addresses() == addresses()


def test_sessions_at_a_time_have_pasts_of_their_own_as_far_as_there_is_room(
    wam: LingBotVA, seen: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    expected = closed_loop(wam.session(TEXT, static=False), seen, ONE, chunks=2)
    opened = [wam.session(TEXT) for _ in range(3)]
    for session in (*opened, opened[0]):
        assert session.frame_index in (0, 4)
    for session in opened:
        assert_same(closed_loop(session, seen, ONE, chunks=2), expected)
    assert [session._lane is not None for session in opened] == [True, True, False]
    assert "2 sessions run in graphs already" in caplog.text
    session = None
    opened.clear()
    gc.collect()
    recorded = wam.lanes.recorded
    assert_same(closed_loop(wam.session(TEXT), seen, ONE, chunks=2), expected)
    assert wam.lanes.recorded == recorded > 0


def test_an_episode_that_went_wrong_leaves_nothing_behind(wam: LingBotVA, seen: dict[str, Tensor]) -> None:
    broken = {stream: torch.full_like(x, float("nan")) for stream, x in seen.items()}
    closed_loop(wam.session(TEXT), broken, ONE, chunks=3)
    assert_same(
        closed_loop(wam.session(TEXT), seen, ONE, chunks=3),
        closed_loop(wam.session(TEXT, static=False), seen, ONE, chunks=3),
    )


def test_weights_that_move_are_recorded_anew(wam: LingBotVA, seen: dict[str, Tensor]) -> None:
    closed_loop(wam.session(TEXT), seen, ONE, chunks=2)
    recorded = wam.lanes.recorded
    wam.double().float()
    with torch.no_grad():
        for p in wam.parameters():
            p.mul_(0.9)
    expected = closed_loop(wam.session(TEXT, static=False), seen, ONE, chunks=2)
    assert_same(closed_loop(wam.session(TEXT), seen, ONE, chunks=2), expected)
    assert wam.lanes.recorded == 2 * recorded > 0


def test_what_cannot_be_recorded_is_drawn_all_the_same_and_says_why(
    wam: LingBotVA, seen: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(CallRecorder):
        def record(self, work: Callable[[], Tensor | None]) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

    expected = closed_loop(wam.session(TEXT, static=False), seen, ONE)
    wam.lanes = Lanes(Refusing())
    assert_same(closed_loop(wam.session(TEXT), seen, ONE), expected)
    assert "not compiled (RuntimeError: operation not permitted" in caplog.text
    assert "a pass could not be recorded (RuntimeError: operation not permitted" in caplog.text


def test_a_lane_that_could_not_be_recorded_leaves_the_others_their_recordings(
    wam: LingBotVA, seen: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    class Full(CallRecorder):
        left = 10**9

        def record(self, work: Callable[[], Tensor | None]) -> Recording:
            if not self.left:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.left -= 1
            return super().record(work)

    recorder = Full()
    wam.lanes = Lanes(recorder, compiled=False)
    expected = closed_loop(wam.session(TEXT, static=False), seen, ONE, chunks=3)
    opened = [wam.session(TEXT), wam.session(TEXT)]
    assert_same(closed_loop(opened[0], seen, ONE, chunks=3), expected)
    recorded, recorder.left = wam.lanes.recorded, 1
    assert_same(closed_loop(opened[1], seen, ONE, chunks=3), expected)
    assert "could not be recorded (OutOfMemoryError: CUDA out of memory)" in caplog.text
    first, second = (session._lane for session in opened)
    opened.clear()
    gc.collect()
    for _ in range(2):
        session = wam.session(TEXT)
        assert session._lane is first, "the lane with the most recordings"
        assert_same(closed_loop(session, seen, ONE, chunks=3), expected)
        del session
        gc.collect()
    assert second.recorded == 1
    assert wam.lanes.recorded == recorded + 1


def test_after_nothing_could_be_recorded_the_cache_of_a_lane_is_let_go(
    wam: LingBotVA, seen: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(CallRecorder):
        def record(self, work: Callable[[], Tensor | None]) -> Recording:
            raise RuntimeError("operation not permitted when stream is capturing")

    wam.lanes = Lanes(Refusing(), compiled=False)
    expected = closed_loop(wam.session(TEXT, static=False), seen, ONE, chunks=2)
    session = wam.session(TEXT)
    assert_same(closed_loop(session, seen, ONE, chunks=2), expected)
    lane = weakref.ref(session._lane)
    del session
    gc.collect()
    assert lane() is None
    caplog.clear()
    caplog.set_level(logging.INFO)
    session = wam.session(TEXT)
    assert session._lane is None
    assert_same(closed_loop(session, seen, ONE, chunks=2), expected)
    told = [record for record in caplog.records if "a session runs without graphs" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.INFO], "every session says so, the first one as a warning"


def test_adapters_beside_the_weights_are_not_recorded(
    wam: LingBotVA, seen: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    """They are switched between passes, which a recording would not see."""

    class Adapter(torch.nn.Linear):
        pass

    wam.transformer.blocks[0].attn1.to_q.adapter = Adapter(2, 2)
    closed_loop(wam.session(TEXT), seen, ONE, chunks=1)
    assert wam.lanes.recorded == 0
    assert "adapters are not merged into the weights (layers Adapter)" in caplog.text


def test_a_model_on_a_cpu_runs_without_graphs_and_says_so_once(
    make_wam: Callable[..., LingBotVA], draw: Draw, caplog: pytest.LogCaptureFixture
) -> None:
    wam = make_wam(rollout="graphed")
    seen = draw(wam, BATCH, 2 * CHUNK, 1)
    drawn = [closed_loop(wam.session(TEXT), seen, ONE, chunks=2) for _ in range(2)]
    assert_same(drawn[0], closed_loop(wam.session(TEXT, static=False), seen, ONE, chunks=2))
    said = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 1
    assert "CUDA graphs need a GPU, and the model is on cpu" in said[0].getMessage()


def test_recorded_passes_project_to_queries_keys_and_values_at_once(
    wam: LingBotVA, seen: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all layers but the last; and the weights are there once, at the same addresses for every session."""
    rows = []
    own = torch.nn.functional.linear

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows.append(len(weight))
        return own(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    numbers = sum(p.numel() for p in wam.parameters())
    attention = wam.transformer.blocks[0].attn1
    opened = [wam.session(TEXT) for _ in range(2)]
    addresses = [p.data_ptr() for p in wam.parameters()]
    for session in opened:
        closed_loop(session, seen, ONE, chunks=2)
    assert rows.count(3 * attention.to_q.out_features) > 0
    assert [p.data_ptr() for p in wam.parameters()] == addresses
    places = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in wam.parameters()}
    assert sum(places.values()) == 4 * numbers
