# SPDX-License-Identifier: Apache-2.0
import pytest

from flashwam.core.scenes import EVAL_SEED_BASE, HISTORY_SEED_BASE, evaluation_scene, recorded_scene


def test_scenes_of_evaluations_and_recordings_never_meet_each_other_or_a_demonstrations():
    assert evaluation_scene(0, 0) == EVAL_SEED_BASE
    assert evaluation_scene(99_899, 9_999) == HISTORY_SEED_BASE - 1
    assert recorded_scene(0, 0) == HISTORY_SEED_BASE
    assert recorded_scene(3, 9_999) < recorded_scene(4, 0)


@pytest.mark.parametrize(("seed", "episode"), [(-1, 0), (99_900, 0)])
def test_an_evaluation_keeps_to_its_scenes(seed, episode):
    with pytest.raises(ValueError, match=f"seed of an evaluation: expected 0 to 99899; got {seed}"):
        evaluation_scene(seed, episode)


@pytest.mark.parametrize("episode", [-1, 10_000])
def test_an_evaluation_keeps_out_of_another_seeds_scenes(episode):
    with pytest.raises(ValueError, match=f"episodes from 0 on, below 10000; got episode {episode}"):
        evaluation_scene(1, episode)


@pytest.mark.parametrize(("seed", "episode"), [(-1, 0), (0, 10_000)])
def test_a_recording_keeps_to_its_scenes(seed, episode):
    with pytest.raises(ValueError, match=f"got seed {seed} and episode {episode}"):
        recorded_scene(seed, episode)
