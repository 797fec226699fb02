# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from tiny_models import tiny_codec, tiny_joint_wam, tiny_wam

from flashwam.core.consistency import make_consistency_function
from flashwam.core.noise import NoiseSchedule
from flashwam.core.scenes import EVAL_SEED_BASE
from flashwam.sampling import StreamSampler
from flashwam.sim.closed_loop import drive, run_task
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.pace import Pace
from flashwam.sim.random_policy import RandomPolicy
from flashwam.sim.tasks import get_task

pytestmark = pytest.mark.usefixtures("simulator")


@pytest.fixture(scope="module")
def policy():
    """A model of random weights: where it goes does not matter, that it goes there again does."""
    linear = make_consistency_function("linear")
    samplers = {
        stream: StreamSampler(schedule=NoiseSchedule(shift), consistency=linear, steps=1)
        for stream, shift in (("video", 5.0), ("action", 1.0))
    }
    return tiny_wam().eval(), samplers, tiny_codec()


def test_a_run_is_a_function_of_its_seed(policy):
    first, again, other = (run_task(*policy, "faucet-turn", episodes=2, seed=seed) for seed in (0, 0, 1))
    assert first.steps == again.steps == (64, 64)
    assert first.success == again.success == (False, False)
    assert first.ways == again.ways
    assert first.commitment == again.commitment
    assert first.chunks == other.chunks == 9


def test_a_model_that_plans_further_than_it_acts_looks_again_sooner(policy):
    _, samplers, codec = policy
    joint = tiny_joint_wam().eval()
    result = run_task(joint, samplers, codec, "faucet-turn", episodes=2)
    assert result.steps == (64, 64)
    assert result.chunks == 64 // (2 * 4)
    assert set(result.seconds) == {"video+action"}


def test_what_is_imagined_is_compared_with_what_happens(policy):
    result = run_task(*policy, "faucet-turn", episodes=2)
    assert len(result.motion) == 2
    assert all(np.isnan(alike) or -1 <= alike <= 1 for alike in result.motion)
    # The first episode runs its 64 steps, so there is a picture after every chunk but the last.
    assert result.film.shape == (2, result.chunks - 1, 64, 64, 3)
    assert result.film.dtype == np.uint8
    real, imagined = result.film
    assert not np.array_equal(real, imagined)


def test_a_film_that_comes_true_is_fully_alike(policy):
    class Prophet(LocalPolicy):
        """Foresees what it will see: a second scene is run ahead of it."""

        def reset(self, prompt, frames, *, seed, state):
            super().reset(prompt, frames, seed=seed)
            self._ahead = MetaWorldEnv(get_task("faucet-turn"), size=64)
            self._ahead.reset(EVAL_SEED_BASE)

        def controls(self):
            found = np.full_like(super().controls(), 0.8)
            for control in found[0]:
                self._ahead.step(control)
            return found

        def foreseen(self):
            # As a codec that works at another size than the simulator's would give it.
            return self._ahead.render()[None].repeat(2, 1).repeat(2, 2)

    result = drive(Prophet(*policy), "faucet-turn", episodes=1)
    assert result.motion == result.first_motion == (pytest.approx(1.0),)
    assert np.array_equal(*result.film)


def test_every_chunk_is_executed_to_the_last_step(policy, monkeypatch):
    wam, samplers, codec = policy
    executed: dict[int, list] = {}
    step = MetaWorldEnv.step

    def spy(self, action):
        executed.setdefault(self.seed, []).append(action)
        return step(self, action)

    monkeypatch.setattr(MetaWorldEnv, "step", spy)
    run_task(wam, samplers, codec, "faucet-turn", episodes=2)
    assert sorted(executed) == [EVAL_SEED_BASE, EVAL_SEED_BASE + 1]
    assert all(np.shape(actions) == (64, 4) for actions in executed.values())


def test_random_actions_are_driven_in_the_scenes_of_models(policy):
    first, again = (drive(RandomPolicy(), "reach-wall", episodes=2, seed=1) for _ in range(2))
    assert first.scenes == run_task(*policy, "faucet-turn", episodes=2, seed=1).scenes
    assert (first.success, first.steps, first.ways) == (again.success, again.steps, again.ways)
    assert first.commitment == 0
    assert first.motion == ()


def test_a_robot_is_not_faster_than_it_is_simulated():
    with pytest.raises(ValueError, match=r"faucet-turn is simulated at 80 controls a second.*--control-hz 80"):
        drive(RandomPolicy(), "faucet-turn", episodes=1, pace=Pace(control_hz=160))
    with pytest.raises(ValueError, match=r"libero_object_0 is simulated at 20 controls.*got 80"):
        drive(RandomPolicy(7), "libero_object_0", episodes=1, pace=Pace(latency_ms=348))
