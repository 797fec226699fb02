# SPDX-License-Identifier: Apache-2.0
"""LeRobot's evaluation in LIBERO: what it shows and executes, held to flashwam's own environment and sessions."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BOWL
from lerobot.scripts import lerobot_eval
from lerobot_policy_flashwam.libero import main, write_libero
from lerobot_policy_flashwam.modeling_flashwam import FlashwamPolicy
from lerobot_policy_flashwam.observations import to_picture
from oracle import by_hand

from flashwam.sim.gl import ensure_gl
from flashwam.sim.libero import LiberoEnv, get_convention, suite_tasks
from flashwam.sim.libero.packages import missing_packages

pytestmark = pytest.mark.skipif(bool(missing_packages()), reason="needs LIBERO, see the README's section on it")

SUITE, STEPS, SIZE, SEED = "libero_spatial", 14, 64, 5
KEYS = {
    "observation.images.agentview_rgb": "observation.images.image",
    "observation.images.eye_in_hand_rgb": "observation.images.image2",
}
RAW = {
    "observation.images.agentview_rgb": "agentview_image",
    "observation.images.eye_in_hand_rgb": "robot0_eye_in_hand_image",
}


@pytest.fixture(scope="module")
def episode(video_student, tmp_path_factory) -> SimpleNamespace:
    """One of lerobot-eval's: what the policy saw and gave, what was executed, and what there is to see at the end."""
    try:
        ensure_gl()
    except RuntimeError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("libero")
    told = SimpleNamespace(batches=[], actions=[], executed=[], last=None, info=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIBERO_CONFIG_PATH", str(write_libero(out / "settings", suites=[SUITE])))
        _listen(patch, told)
        policy = [
            "--policy.type=flashwam",
            f"--policy.student={video_student}",
            "--policy.device=cpu",
            f"--policy.seed={SEED}",
            f"--policy.cameras={{{', '.join(f'{camera}: {key}' for camera, key in KEYS.items())}}}",
            "--policy.mirrored=true",
        ]
        world = [
            "--env.type=libero",
            f"--env.task={SUITE}",
            "--env.task_ids=[0]",
            f"--env.observation_height={SIZE}",
            f"--env.observation_width={SIZE}",
            f"--env.episode_length={STEPS}",
        ]
        options = ["--seed=0", "--eval.batch_size=1", "--eval.n_episodes=1", f"--output_dir={out / 'out'}"]
        patch.setattr(sys, "argv", ["lerobot-eval", *policy, *world, *options])
        lerobot_eval.main()
    told.info = json.loads((out / "out" / "eval_info.json").read_text())
    return told


def _listen(patch: pytest.MonkeyPatch, told: SimpleNamespace) -> None:
    from lerobot.envs.libero import LiberoEnv as TheirEnv

    act, step = FlashwamPolicy.select_action, TheirEnv.step

    def select_action(policy: FlashwamPolicy, batch: dict[str, Any], **options: Any) -> torch.Tensor:
        told.batches.append(batch)
        told.actions.append(act(policy, batch, **options))
        return told.actions[-1]

    def execute(env: TheirEnv, action: np.ndarray) -> Any:
        told.executed.append(action.copy())
        result = step(env, action)
        if len(told.executed) == STEPS:
            # As it is now; what an environment shows after a control is from one substep before.
            told.last = env._env.env._get_observations(force_update=True)
        return result

    patch.setattr(FlashwamPolicy, "select_action", select_action)
    patch.setattr(TheirEnv, "step", execute)


def _shown(episode: SimpleNamespace, step: int) -> dict[str, np.ndarray]:
    """The pictures of LeRobot's observation, mirrored back."""
    batch = episode.batches[step]
    return {camera: to_picture(batch[key][0], key)[:, ::-1] for camera, key in KEYS.items()}


@pytest.fixture(scope="module")
def replayed(episode) -> SimpleNamespace:
    """The same controls in flashwam's environment."""
    env = LiberoEnv(suite_tasks(SUITE)[0], convention=get_convention("common").changed(size=SIZE, instruction="name"))
    env.reset(0, render=False)
    first, felt = env.look(), env.proprioception
    for action in episode.executed:
        env.step(action)
    told = SimpleNamespace(prompt=env.prompt, first=first, felt=felt, last=env.look(), end=env.proprioception)
    env.close()
    return told


def test_an_evaluation_ends_with_its_result(episode):
    assert episode.info["overall"]["n_episodes"] == 1
    assert [task["task_group"] for task in episode.info["per_task"]] == [SUITE]
    assert len(episode.executed) == len(episode.actions) == STEPS


def test_what_is_executed_are_a_sessions_actions(episode, video_student):
    films = {
        camera: np.stack([np.ascontiguousarray(_shown(episode, step)[camera]) for step in range(STEPS)])
        for camera in KEYS
    }
    expected = by_hand(video_student, films, prompt=BOWL, seed=SEED)
    np.testing.assert_array_equal(torch.cat(episode.actions).numpy(), expected)
    np.testing.assert_array_equal(episode.executed, expected)
    unmirrored = {camera: np.ascontiguousarray(film[:, :, ::-1]) for camera, film in films.items()}
    assert not np.array_equal(by_hand(video_student, unmirrored, prompt=BOWL, seed=SEED), expected)


def test_the_instruction_is_that_of_the_files_name(episode, replayed):
    assert {task for batch in episode.batches for task in batch["task"]} == {BOWL} == {replayed.prompt}
    assert suite_tasks(SUITE)[0].prompt != BOWL


def test_an_episode_begins_as_flashwams_and_is_seen_mirrored(episode, replayed):
    """Idle steps, initial state and furniture are those of the convention "common", scene 0."""
    for camera, ours in replayed.first.items():
        theirs = _shown(episode, 0)[camera].astype(int)
        # The substep between them moves what is not quite at rest by a few edges.
        assert np.abs(theirs - ours).mean() < 0.2
        assert np.abs(theirs[:, ::-1] - ours).mean() > 5
        assert np.abs(theirs[::-1] - ours).mean() > 5
    np.testing.assert_allclose(episode.batches[0]["observation.state"][0], replayed.felt, atol=1e-3)


def test_the_same_controls_lead_to_the_same_place(episode, replayed):
    for camera, ours in replayed.last.items():
        np.testing.assert_array_equal(episode.last[RAW[camera]][::-1], ours)
    fingers = episode.last["robot0_gripper_qpos"]
    np.testing.assert_allclose(np.concatenate([episode.last["robot0_eef_pos"], fingers]), replayed.end[[0, 1, 2, 6, 7]])


def test_initial_states_are_written_for_lerobot(tmp_path, capsys):
    folder = write_libero(tmp_path / "settings", suites=["libero_goal"])
    task = suite_tasks("libero_goal")[3]
    states = torch.load(folder / "init_states" / "libero_goal" / f"{task.name}.pruned_init", weights_only=False)
    np.testing.assert_array_equal(states, task.states)
    assert write_libero(folder, suites=["libero_goal"]) == folder
    (folder / "config.yaml").write_text("assets: /elsewhere\n")
    assert main([str(folder)]) == 2
    assert "holds other settings of LIBERO" in capsys.readouterr().err
    assert (folder / "config.yaml").read_text() == "assets: /elsewhere\n"
