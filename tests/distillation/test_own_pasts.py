# SPDX-License-Identifier: Apache-2.0
"""The places at which a model stood in closed loop, and their share of the batches."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_joint_wam, tiny_wam

from flashwam.core.streams import StreamSpec
from flashwam.data.histories import Histories
from flashwam.distillation.methods import Pairs
from flashwam.distillation.own_pasts import own_pasts
from flashwam.distillation.setup import Setup


def histories(*frames):
    """Episodes of so many latent frames."""
    rows = [[0, number, -1, 0, count, 0] for number, count in enumerate(frames)]
    return Histories(SimpleNamespace(episodes=torch.tensor(rows)), seed=0)


def places(found):
    return [(pool.chunk, len(pool.source), pool.share) for pool in found]


def test_a_model_with_a_past_stands_after_every_chunk_that_was_lived_through():
    """Chunks of 2 frames: the episodes of 5 and 4 frames reach a third chunk, the others a second or none."""
    assert places(own_pasts(histories(1, 2, 3, 5, 4), tiny_wam())) == [(1, 4, 4 / 6), (2, 2, 2 / 6)]


def test_a_model_that_is_told_the_last_picture_stands_after_every_two_frames_that_it_executes():
    assert places(own_pasts(histories(1, 3, 6), tiny_joint_wam())) == [(0, 3, 1.0)]


@pytest.mark.parametrize("wam", [tiny_wam, tiny_joint_wam])
def test_episodes_that_ended_in_their_first_chunk_are_refused(wam):
    with pytest.raises(ValueError, match="no recorded episode went on after its first chunk"):
        own_pasts(histories(1, 1), wam())


class Beginnings:
    """The data's part, of which nothing is read but its length."""

    def batch(self, indices):
        return SimpleNamespace(frames=4)

    def beginnings(self, *, several_ways):
        return self


def pairs(**options):
    streams = {name: StreamSpec.from_config(name, {"shift": 1.0}) for name in ("video", "action")}
    return Pairs(streams, tiny_wam(), teacher=tiny_wam(), **options)


def pools(method, found):
    setup = Setup(data=None, streams=method.streams, seed=0, histories=found)
    return [(pool.chunk, round(pool.share, 6)) for pool in method._pools(Beginnings(), setup, tiny_wam())]


def test_own_pasts_take_their_share_behind_the_others_which_keep_their_numbers():
    assert pools(pairs(first_share=0.4), None) == [(0, 0.4), (1, 0.6)]
    method = pairs(first_share=0.4, histories="there", histories_share=0.5)
    assert pools(method, histories(2, 3, 5, 4)) == [(0, 0.2), (1, 0.3), (1, 0.333333), (2, 0.166667)]
    method = pairs(histories="there", histories_share=1.0)
    assert pools(method, histories(4)) == [(1, 0.5), (2, 0.5)]


def test_a_share_must_be_one_and_episodes_must_be_there():
    with pytest.raises(ValueError, match=r"histories_share must lie in \(0, 1\]; got 0"):
        pairs(histories="there", histories_share=0)
    with pytest.raises(ValueError, match="beside data that a simulator makes"):
        pools(pairs(histories="there"), None)
