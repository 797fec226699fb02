# SPDX-License-Identifier: Apache-2.0
"""Actions of the policy are those of sessions driven by hand, to the bit."""

import threading

import numpy as np
import pytest
import torch
from conftest import FRONT, PROMPT
from oracle import by_hand, by_policy, lerobot_batch

from flashwam.serve.model import load_served
from flashwam.serve.session import PolicySession

LIBERO = ("observation.images.agentview_rgb", "observation.images.eye_in_hand_rgb")


@pytest.mark.parametrize("kind", ["student", "joint_student"])
def test_an_episode_is_that_of_a_session(kind, request, make_policy, film):
    folder, seen = request.getfixturevalue(kind), film(37)
    actions = by_policy(make_policy(folder, seed=5), [{"front": seen}], tasks=[PROMPT])[0]
    expected = by_hand(folder, {FRONT: seen}, prompt=PROMPT, seed=5)
    assert (actions.shape, actions.dtype) == ((37, 4), np.float32)
    np.testing.assert_array_equal(actions, expected)
    assert len(np.unique(expected, axis=0)) > 20


def test_what_is_seen_and_the_seed_matter(student, make_policy, film):
    seen, other = film(21), film(21)
    other[12:] = film(9, seed=1)
    actions = by_policy(make_policy(student), [{"front": seen}], tasks=[PROMPT])[0]
    changed = by_policy(make_policy(student), [{"front": other}], tasks=[PROMPT])[0]
    assert np.array_equal(actions[:12], changed[:12])
    assert not np.array_equal(actions[12:], changed[12:])
    assert not np.array_equal(actions, by_policy(make_policy(student, seed=1), [{"front": seen}], tasks=[PROMPT])[0])


def test_two_cameras_and_four_pictures_a_frame(video_student, make_policy, film):
    films = {camera: film(30, seed=number, size=(100, 120)) for number, camera in enumerate(LIBERO)}
    named = {camera.removeprefix("observation.images."): pictures for camera, pictures in films.items()}
    actions = by_policy(make_policy(video_student), [named], tasks=[PROMPT])[0]
    np.testing.assert_array_equal(actions, by_hand(video_student, films, prompt=PROMPT, seed=0))
    assert actions.shape == (30, 7)


def test_two_environments_are_two_sessions(student, make_policy, film):
    one, other = film(25, seed=1), film(25, seed=2)
    tasks = [PROMPT, "open the drawer"]
    actions = by_policy(make_policy(student, seed=3), [{"front": one}, {"front": other}], tasks=tasks)
    np.testing.assert_array_equal(actions[0], by_hand(student, {FRONT: one}, prompt=tasks[0], seed=3))
    np.testing.assert_array_equal(actions[1], by_hand(student, {FRONT: other}, prompt=tasks[1], seed=4))


def test_reset_begins_anew(student, make_policy, film):
    policy, seen = make_policy(student, seed=7), film(18)
    by_policy(policy, [{"front": seen[:11]}], tasks=[PROMPT])
    policy.reset()
    again = by_policy(policy, [{"front": seen}], tasks=[PROMPT])[0]
    # The second episode that begins draws from the second seed.
    np.testing.assert_array_equal(again, by_hand(student, {FRONT: seen}, prompt=PROMPT, seed=8))


def test_without_a_seed_noise_is_new(student, make_policy, film):
    policy, seen = make_policy(student, seed=None), film(1)
    first = by_policy(policy, [{"front": seen}], tasks=[PROMPT])
    policy.reset()
    assert not np.array_equal(first, by_policy(policy, [{"front": seen}], tasks=[PROMPT]))


def test_another_task_begins_the_episode_anew(student, make_policy, film):
    policy, seen = make_policy(student), film(20)
    by_policy(policy, [{"front": seen[:6]}], tasks=[PROMPT])
    actions = by_policy(policy, [{"front": seen[6:]}], tasks=["open the drawer"])[0]
    np.testing.assert_array_equal(actions, by_hand(student, {FRONT: seen[6:]}, prompt="open the drawer", seed=1))


def test_a_prompt_of_the_options_stands_for_the_task(student, make_policy, film):
    seen = film(5)
    actions = by_policy(make_policy(student, prompt=PROMPT), [{"front": seen}], tasks=[""])[0]
    np.testing.assert_array_equal(actions, by_hand(student, {FRONT: seen}, prompt=PROMPT, seed=0))


def test_a_chunk_without_a_past(student, make_policy, film):
    policy, seen = make_policy(student, seed=2), film(3)
    batch = lerobot_batch({"front": seen[:2]}, [PROMPT, PROMPT])
    first = policy.select_action(batch)
    chunk = policy.predict_action_chunk(batch)
    assert (chunk.shape, chunk.dtype) == ((2, 4, 4), torch.float32)
    session = PolicySession(load_served(student))
    for number in range(2):
        session.reset(PROMPT, seed=2 + number)
        drawn = session.infer({FRONT: seen[number]})
        np.testing.assert_array_equal(chunk[number], drawn[:, 1].T)
    # The episodes that were under way go on.
    assert torch.equal(first, chunk[:, 0])
    assert torch.equal(policy.select_action(batch), chunk[:, 1])


def test_two_threads_are_refused(student, make_policy, film):
    policy, batch = make_policy(student), lerobot_batch({"front": film(1)}, [PROMPT])
    policy.select_action(batch)
    said: list[str] = []

    def drive() -> None:
        try:
            policy.select_action(batch)
        except ValueError as error:
            said.append(str(error))

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join()
    assert "max_parallel_tasks" in said[0]


def test_another_number_of_environments_is_refused(student, make_policy, film):
    policy, seen = make_policy(student), film(2)
    policy.select_action(lerobot_batch({"front": seen}, [PROMPT] * 2))
    with pytest.raises(ValueError, match=r"2 environment.* 1 sent observations: reset"):
        policy.select_action(lerobot_batch({"front": seen[:1]}, [PROMPT]))


def test_the_policy_has_no_weights_that_lerobot_could_move_or_train(student, make_policy):
    policy = make_policy(student)
    assert not list(policy.parameters())
    assert policy.to("cpu") is policy
    with pytest.raises(ValueError, match=r"--policy\.dtype"):
        policy.half()
    for call in (lambda: policy.forward({}), policy.get_optim_params, policy.config.get_optimizer_preset):
        with pytest.raises(NotImplementedError, match="flashwam distill"):
            call()
