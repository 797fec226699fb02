# SPDX-License-Identifier: Apache-2.0
"""Windows of a recording: what lies before the chunk was lived through, and all of the chunk is to be learnt."""

import pytest
import torch

from flashwam.data.dataset import EpisodeDataset
from flashwam.data.histories import Histories

# Latent frames of the made-up episodes: alpha 4, 6, 3, 5; beta 3, 9.


@pytest.fixture(scope="module")
def episodes(encoded):
    return EpisodeDataset(encoded, window_frames=2, split="all")


@pytest.fixture
def histories(episodes):
    return Histories(episodes, seed=3)


@pytest.mark.parametrize(
    ("frames", "starts", "count"), [(4, [0], 6), (6, [0], 4), (8, [0], 2), (12, [0], 0), (2, range(1, 9), 24)]
)
def test_windows_stand_where_their_past_was_lived_through(histories, frames, starts, count):
    assert histories.longest == 9
    assert len(histories.standing(frames=frames, drawn=2, starts=starts)) == count


def test_a_window_holds_the_recorded_past_and_asks_for_all_of_its_chunk(histories, episodes):
    standing = histories.standing(frames=6, drawn=2, starts=[0])
    batch = standing.batch(range(20))
    whole = {(int(e[0]), int(e[1])): e for e in episodes.episodes}
    told = [standing.describe(i) for i in range(20)]
    assert set(told) == {
        "alpha/episode_000000 as recorded, from latent frame 0",
        "alpha/episode_000001 as recorded, from latent frame 0",
        "alpha/episode_000003 as recorded, from latent frame 0",
        "beta/episode_000001 as recorded, from latent frame 0",
    }
    # Every task as often, however many of its episodes got so far.
    assert 5 <= sum(text.startswith("beta") for text in told) <= 15
    for row, text in enumerate(told):
        key = (0 if text.startswith("alpha") else 1, int(text.split("episode_")[1][:6]))
        first = int(whole[key][3])
        assert torch.equal(batch.history["video"][row, :, :4], episodes._video[first : first + 4].transpose(0, 1))
        done = episodes._executed[first : first + 4].permute(1, 0, 2)[..., None]
        assert torch.equal(batch.history["action"][row, :, :4], done)
    assert batch.given[:, 0].all()
    assert not batch.given[:, 1:].any()
    for name in ("video", "action"):
        assert batch.loss_mask(name).expand_as(batch.clean[name])[:, :, 4:].all()
    again = histories.standing(frames=6, drawn=2, starts=[0]).batch([7])
    assert torch.equal(again.history["video"][0], batch.history["video"][7])


def test_a_chunk_that_begins_with_the_observation_is_asked_for_without_it(histories):
    batch = histories.standing(frames=4, drawn=4, starts=range(2, 9, 2)).batch(range(8))
    assert not batch.loss_mask("video")[:, :, 0].any()
    assert not batch.loss_mask("action")[:, :, 0].any()
    assert batch.loss_mask("action")[:, :, 1:].all()
