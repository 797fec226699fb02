# SPDX-License-Identifier: Apache-2.0
"""Imagined frames under way are in a model's past until the real ones come, and no longer."""

import logging
from collections.abc import Callable

import pytest
import torch
from tiny_models import tiny_wam
from torch import Tensor
from torch.testing import assert_close

from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.sampling import Rollout, StreamSampler
from flashwam.wam.base import WorldActionModel
from flashwam.wam.lingbot_va import LingBotVA
from flashwam.wam.lingbot_va.graphed import Lanes
from flashwam.wam.recording import CallRecorder
from flashwam.wam.replay import ReplaySession
from flashwam.wam.session import RolloutSession

FRAMES, CHUNKS = 3, 6
"""Of a chunk, and of an episode; a window of five blocks is full after three chunks."""


@pytest.fixture
def wam(make_wam: Callable[..., LingBotVA]) -> LingBotVA:
    return make_wam(chunk_frames=FRAMES, num_layers=2)


def seen_of(wam: WorldActionModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.randn(1, c, CHUNKS * FRAMES, h, w, generator=generator) for name, (c, h, w) in wam.shapes.items()
    }


def episode(wam: WorldActionModel, under_way: tuple[int, ...], *, scale: float = 1.0) -> tuple[Rollout, list[Tensor]]:
    """A closed loop with so many frames under way at the end of every chunk, and the actions drawn in it."""
    seen, generator = seen_of(wam), torch.Generator().manual_seed(3)
    text, null = torch.randn(1, 6, wam.text_shape[1], generator=generator), torch.zeros(6, wam.text_shape[1])
    samplers = {
        name: StreamSampler(
            schedule=NoiseSchedule(shift=1.0),
            consistency=Linear(),
            steps=1,
            guidance_scale=scale if name == "video" else 1.0,
        )
        for name in wam.streams
    }
    first = {name: x[:, :, :1] for name, x in seen.items()}
    rollout = Rollout(wam, samplers, text=text, null_text=null, first=first, generator=generator)
    drawn, told = [], 0
    for chunk, late in enumerate(under_way):
        drawn.append(rollout.predict()["action"])
        end = (chunk + 1) * FRAMES
        observed = {"video": seen["video"][:, :, told : end - late], "action": seen["action"][:, :, end - FRAMES : end]}
        rollout.observe(observed, under_way=late)
        told = end - late
    return rollout, [*drawn, rollout.predict()["action"]]


def past(session: RolloutSession) -> dict[int, Tensor]:
    """Keys and values of every observed block that the current chunk sees."""
    within = {index for index, _, predicted in session.blocks if not predicted}
    cache = session._cache
    return {b.index: cache.buffer[..., b.begin : b.end, :] for b in cache.blocks if b.index in within}


@pytest.mark.parametrize("eviction", ["mask", "permanent"])
@pytest.mark.parametrize(
    ("kind", "scale"), [("dynamic", 1.0), ("dynamic", 3.0), ("static", 1.0), ("graphed", 3.0), ("unfused", 1.0)]
)
def test_once_the_real_frames_are_there_the_past_is_as_if_they_had_been_seen_all_along(
    make_wam: Callable[..., LingBotVA], kind: str, scale: float, eviction: str
) -> None:
    late = (2, 1, 2, 0, 1, 0)
    wam = make_wam(chunk_frames=FRAMES, num_layers=2, eviction=eviction)
    wam.choose_rollout("dynamic" if kind == "unfused" else kind)
    if kind == "graphed":
        wam.lanes = Lanes(CallRecorder(), compiled=False)
    if kind == "unfused":
        wam.session = lambda *given, opened=wam.session, **how: opened(*given, fused=False, **how)
    rollout, drawn = episode(wam, late, scale=scale)
    straight, expected = episode(wam, (0,) * len(late), scale=scale)
    ours, theirs = past(rollout.session), past(straight.session)
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 4
    for index, block in theirs.items():
        assert_close(ours[index], block, atol=1e-5, rtol=1e-5)
    assert_close(drawn[-1], expected[-1], atol=1e-5, rtol=1e-5)
    assert (drawn[1] - expected[1]).abs().max() > 1e-3


def test_a_past_that_is_computed_anew_every_time_is_mended_too(wam: LingBotVA) -> None:
    wam.session = lambda text, **how: ReplaySession(wam, text, **how)
    drawn, expected = (episode(wam, late)[1] for late in ((1, 2, 0), (0, 0, 0)))
    assert_close(drawn[-1], expected[-1], atol=1e-5, rtol=1e-5)
    assert (drawn[1] - expected[1]).abs().max() > 1e-3


def test_frames_of_no_chunk_before_and_out_of_turn_are_refused(wam: LingBotVA) -> None:
    session = wam.session(torch.zeros(1, 6, 12))
    chunk = {name: x[:, :, :FRAMES] for name, x in seen_of(wam).items()}
    late = {"video": chunk["video"][:, :, -1:]}
    with pytest.raises(ValueError, match="1 frames of video; the chunk before has"):
        session.amend(late)
    for name, x in chunk.items():
        session.append(name, x, predicted=False)
    with pytest.raises(RuntimeError, match="before this chunk's own"):
        session.amend(late)
    session.advance(FRAMES)
    session.append("video", chunk["video"], predicted=True)
    with pytest.raises(RuntimeError, match="drop_predicted"):
        session.amend(late)
    session.drop_predicted()
    with pytest.raises(ValueError, match="4 frames of video; the chunk before has"):
        session.amend({"video": torch.cat([chunk["video"], late["video"]], 2)})
    session.amend(late)


def test_a_family_that_cannot_mend_its_past_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    wam = tiny_wam(chunk_frames=FRAMES)

    class Other(ReplaySession):
        amend = RolloutSession.amend

    wam.session = lambda text, **how: Other(wam, text, **how)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            episode(wam, (1, 1, 0))
    (record,) = caplog.records
    assert "what Other imagined of frames under way stays in its past" in record.getMessage()
