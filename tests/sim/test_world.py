# SPDX-License-Identifier: Apache-2.0
"""Closed loops in a world that does not wait, against loops that are written out here."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import tiny_codec, tiny_joint_wam, tiny_wam

from flashwam.core.consistency import make_consistency_function
from flashwam.core.noise import NoiseSchedule
from flashwam.core.scenes import EVAL_SEED_BASE, evaluation_scene
from flashwam.sampling import StreamSampler
from flashwam.sim.closed_loop import drive
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.pace import Pace
from flashwam.sim.random_policy import RandomPolicy
from flashwam.sim.tasks import get_task

pytestmark = pytest.mark.usefixtures("simulator")
TASK = "faucet-turn"
MODELS = {"history": lambda: tiny_wam(chunk_frames=3), "present": tiny_joint_wam}


class Heard(LocalPolicy):
    """Keeps what it is told and what it says."""

    def reset(self, prompt, frames, *, seed, state=None):
        super().reset(prompt, frames, seed=seed, state=state)
        self.told, self.said = [], []

    def controls(self):
        self.said.append(super().controls())
        return self.said[-1]

    def observe(self, pictures, controls, *, state=None, under_way=0):
        self.told.append((pictures, controls, state, under_way))
        super().observe(pictures, controls, state=state, under_way=under_way)


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    """One that remembers chunks, and one that begins every chunk at the picture."""
    linear = make_consistency_function("linear")
    samplers = {
        stream: StreamSampler(schedule=NoiseSchedule(shift), consistency=linear, steps=1)
        for stream, shift in (("video", 5.0), ("action", 1.0))
    }
    return MODELS[request.param]().eval(), samplers, tiny_codec()


@pytest.fixture
def stepped(monkeypatch):
    """Scene -> controls that were executed there, those of waiting too."""
    executed = {}
    step = MetaWorldEnv.step

    def spy(self, action):
        executed.setdefault(self.seed, []).append(np.array(action))
        return step(self, action)

    monkeypatch.setattr(MetaWorldEnv, "step", spy)
    return executed


def paused(policy, *, steps):
    """The loop of a world that waits, for one episode: its controls."""
    env = MetaWorldEnv(replace(get_task(TASK), max_steps=steps))
    frame, n = env.reset(evaluation_scene(0, 0)), policy.per_frame
    policy.reset(env.task.prompt, frame[None], seed=17, state=env.proprioception[None])
    executed = []
    while True:
        controls, pictures, felt = policy.controls(), [], []
        for number, control in enumerate(controls[0], 1):
            executed.append(control)
            if env.step(control)[0]:
                return np.stack(executed)
            if number % n == 0:
                pictures.append(env.render())
                felt.append(env.proprioception)
        policy.observe(np.stack(pictures)[None], controls, state=np.stack(felt)[None])


def test_without_latency_the_loop_is_that_of_a_world_that_waits(model, stepped):
    done = paused(LocalPolicy(*model), steps=64)
    (scene, before) = stepped.popitem()
    np.testing.assert_array_equal(np.stack(before), done)
    plain = drive(LocalPolicy(*model), TASK, episodes=1)
    untimed = {"film": None, "seconds": {}, "environment_seconds": 0}
    for meanwhile in ("hold", "go_on"):
        stepped.clear()
        found = drive(LocalPolicy(*model), TASK, episodes=1, pace=Pace(meanwhile=meanwhile))
        np.testing.assert_array_equal(np.stack(stepped[scene]), done)
        np.testing.assert_array_equal(found.film, plain.film)
        assert replace(found, **untimed) == replace(plain, **untimed)


def test_a_robot_that_holds_waits_before_every_chunk_and_does_nothing_else_otherwise(model, stepped):
    """Five controls of waiting, then a chunk: what is executed of chunks is what the policy says."""
    policy = Heard(*model)
    drive(policy, TASK, episodes=1, pace=Pace(latency_ms=62.5))
    executed = np.stack(stepped[EVAL_SEED_BASE])
    at, grip = 0, -1.0
    for said in policy.said:
        held = executed[at : at + 5]
        np.testing.assert_array_equal(held, np.tile([0.0, 0.0, 0.0, grip], (len(held), 1)).astype(np.float32))
        chunk = executed[at + 5 : at + 5 + said.shape[1]]
        np.testing.assert_array_equal(chunk, said[0, : len(chunk)])
        at, grip = at + 5 + said.shape[1], said[0, -1, -1]
    assert len(executed) == 64
    assert {under_way for *_, under_way in policy.told} == {0}


def test_a_robot_that_goes_on_never_waits_once_it_has_begun_and_sees_every_frame_once(model, stepped):
    policy = Heard(*model)
    drive(policy, TASK, episodes=1, pace=Pace(latency_ms=50, meanwhile="go_on"))
    executed, n = np.stack(stepped[EVAL_SEED_BASE]), policy.per_frame
    np.testing.assert_array_equal(executed[:4], np.tile([0.0, 0.0, 0.0, -1.0], (4, 1)))
    said = np.concatenate(policy.said, 1)[0]
    np.testing.assert_array_equal(executed[4:], said[: 64 - 4])
    # What is told of frames is what was there then, in a world that is stepped through again.
    env = MetaWorldEnv(TASK)
    env.reset(EVAL_SEED_BASE)
    pictures = []
    for number, control in enumerate(executed):
        env.step(control)
        if number >= 4 and (number - 3) % n == 0:
            pictures.append(env.render())
    told = np.concatenate([pictures for pictures, *_ in policy.told], 1)[0]
    np.testing.assert_array_equal(told, np.stack(pictures[: len(told)]))
    assert [under_way for *_, under_way in policy.told] == [1] * len(policy.told)


def test_a_latency_longer_than_a_chunk_is_waited_for_after_the_chunk(model, stepped):
    """All but the first frame go on while the next chunk is computed; for the rest of ten frames the robot stands."""
    policy = Heard(*model)
    drive(policy, TASK, episodes=1, pace=Pace(latency_ms=500, meanwhile="go_on", patience=2))
    executed = np.stack(stepped[EVAL_SEED_BASE])
    first, second = policy.said[:2]
    begun = 40 + first.shape[1]
    waited = 40 - (first.shape[1] - policy.per_frame)
    assert not executed[begun : begun + waited, :3].any()
    np.testing.assert_array_equal(
        executed[begun + waited :][: second.shape[1]], second[0][: len(executed) - begun - waited]
    )
    assert len(executed) == 128


def test_patience_does_not_stop_what_moves(stepped):
    """A standing scene is given twice its time; a moving one is gone when it is gone."""
    for task, limit in (("faucet-turn", 128), ("button-moving", 160)):
        found = drive(RandomPolicy(), task, episodes=1, pace=Pace(latency_ms=500, patience=2))
        assert (found.success, found.steps, found.moving) == ((False,), (limit,), task == "button-moving")


@pytest.mark.parametrize("model", ["history"], indirect=True)
def test_a_run_at_a_pace_is_a_function_of_its_seed_in_the_scenes_of_a_world_that_waits(model):
    pace = Pace(latency_ms=50, meanwhile="go_on")
    one, again = (drive(LocalPolicy(*model), TASK, episodes=2, pace=pace) for _ in range(2))
    assert (one.steps, one.motion, one.scenes) == (again.steps, again.motion, (EVAL_SEED_BASE, EVAL_SEED_BASE + 1))
    np.testing.assert_array_equal(one.film, again.film)
