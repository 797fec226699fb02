# SPDX-License-Identifier: Apache-2.0
"""A timed chunk takes the passes that its row says, and is the same chunk of an episode each time."""

from unittest import mock

import pytest
import torch
from loops import OurLoop, our_ways, published_ways
from rollout_table import table
from sizes import ROBOTWIN, random_wam
from timing import spread

from flashwam.wam.lingbot_va import LingBotVA, WanTransformer3DModel

STEPS = {"video": 2, "action": 3}
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def wam() -> LingBotVA:
    """Of a window of three chunks."""
    torch.manual_seed(0)
    return random_wam("tiny", ROBOTWIN, **CPU).eval().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("history", [1, 4], ids=["young", "full"])
@pytest.mark.parametrize("rollout", ["dynamic", "static"])
def test_every_way_takes_the_passes_and_tokens_that_it_says(history: int, rollout: str, wam: LingBotVA) -> None:
    options = {"history": history, "steps": STEPS, **CPU}
    ours = our_ways(wam, rollout, **options)
    published = [way for way in published_ways(wam, **options) if not way.captured]
    for way in [*ours, *published]:
        loop = way.build()
        passes = []
        run = WanTransformer3DModel.cached_pass

        def counted(network, segments, *args, run=run, passes=passes, **how):
            passes.append(
                sum(
                    part.x.shape[0] * part.x.shape[2] * network.tokens_per_frame(part.stream, part.x)
                    for part in segments
                )
            )
            return run(network, segments, *args, **how)

        for _ in range(2):
            loop.restart()
            passes.clear()
            with mock.patch.object(WanTransformer3DModel, "cached_pass", counted):
                loop.chunk()
            assert len(passes) == way.passes, way.name
            if way.floor is not None:
                assert passes == [each.rows * each.tokens for each in way.floor], way.name
                assert sum(passes) == way.tokens


@torch.no_grad()
def test_a_young_episode_stays_young_and_a_full_window_goes_on(wam: LingBotVA) -> None:
    young, full = (our_ways(wam, "dynamic", history=count, steps=STEPS, **CPU)[0].build() for count in (1, 4))
    indices = {}
    for name, loop in (("young", young), ("full", full)):
        assert isinstance(loop, OurLoop)
        indices[name] = []
        for _ in range(3):
            loop.restart()
            loop.chunk()
            indices[name].append(loop.rollout.session.frame_index // wam.chunk_frames)
    assert indices == {"young": [2, 2, 2], "full": [5, 6, 7]}


def test_a_spread_is_of_values_that_occurred() -> None:
    assert spread([float(value) for value in range(1, 21)]) == {"count": 20, "median": 10.0, "p5": 1.0, "p95": 19.0}
    assert spread([3.0]) == {"count": 1, "median": 3.0, "p5": 3.0, "p95": 3.0}


def test_a_captured_loop_is_not_taken_for_the_published_one() -> None:
    told = {"tokens": 1, "stages": {}, "spread": {"p5": 1.0, "p95": 1.0, "count": 1}, "floor": None}
    measured = {**told, "peak_bytes": None, "warm_up_seconds": 0.0}
    rows = [
        {"name": "student graphed 1v/1a", "passes": 2, "ms": 17.7, **measured},
        {"name": "published 25v/50a guided", "passes": 79, "ms": None, "why": "no memory", **told},
        {"name": "published captured 25v/50a guided", "passes": 79, "ms": 912.1, **measured},
    ]
    result = {"size": "real", "parameters": 1, "history": 2, "many": 79, "rows": rows}
    assert "51.5" not in table([result])
    rows[1] |= {"ms": 4754.6, **measured}
    assert "268.6" in table([result])
