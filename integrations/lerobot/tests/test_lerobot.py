# SPDX-License-Identifier: Apache-2.0
"""LeRobot's own code finds the policy and drives it: registry, evaluation, its command line, and a robot's loop."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FRONT, PROMPT, ROOT
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs import make_env, make_env_pre_post_processors
from lerobot.policies import get_policy_class, make_policy, make_pre_post_processors
from lerobot.scripts import lerobot_eval
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot_policy_flashwam.__main__ import main
from lerobot_policy_flashwam.configuration_flashwam import FlashwamConfig
from lerobot_policy_flashwam.folder import write_policy
from lerobot_policy_flashwam.modeling_flashwam import FlashwamPolicy
from oracle import by_hand
from tiny_world import TinyWorldConfig

from flashwam.serve.model import load_served


@pytest.fixture(scope="module")
def prepared(student, tmp_path_factory) -> Path:
    """A student's folder with LeRobot's files in it."""
    folder = shutil.copytree(student, tmp_path_factory.mktemp("prepared") / "student")
    assert main([str(folder)]) == 0
    return folder


def test_the_installed_wheel_is_found_by_its_name():
    assert metadata.distribution("lerobot_policy_flashwam").metadata["Name"] == "lerobot_policy_flashwam"
    script = (
        "from lerobot.utils.import_utils import register_third_party_plugins as register; "
        "from lerobot.configs.policies import PreTrainedConfig as Config; "
        "assert 'flashwam' not in Config.get_known_choices(); register(); print(Config.get_choice_class('flashwam'))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "configuration_flashwam.FlashwamConfig" in told.stdout
    register_third_party_plugins()
    assert get_policy_class("flashwam") is FlashwamPolicy


def test_a_prepared_folder_says_what_is_seen_and_done(prepared, student):
    config = PreTrainedConfig.from_pretrained(prepared, cli_overrides=["--nfe=1v/1a", "--seed=4"])
    assert isinstance(config, FlashwamConfig)
    assert (config.student, config.nfe, config.seed) == (None, "1v/1a", 4)
    assert {key: feature.shape for key, feature in config.image_features.items()} == {FRONT: (3, 64, 64)}
    assert config.action_feature.shape == (4,)
    assert json.loads((prepared / "config.json").read_text())["device"] is None
    assert {path.name for path in prepared.iterdir()} - {path.name for path in student.iterdir()} == {
        "config.json",
        "policy_preprocessor.json",
        "policy_postprocessor.json",
    }
    policy = FlashwamPolicy.from_pretrained(prepared, config=config)
    assert policy.model.metadata["nfe"] == {"video": 1, "action": 1}


def test_files_may_lie_in_another_folder(student, tmp_path, capsys):
    options = ["--out", str(tmp_path / "for_lerobot"), "--mirrored", "--camera", f"{FRONT}=observation.image"]
    assert main([str(student), *options]) == 0
    assert "--policy.path=" in capsys.readouterr().out
    policy = FlashwamPolicy.from_pretrained(tmp_path / "for_lerobot")
    assert (policy.config.student, policy.config.mirrored) == (str(student), True)
    assert list(policy.config.image_features) == ["observation.image"]
    policy.save_pretrained(tmp_path / "again")
    assert FlashwamPolicy.from_pretrained(tmp_path / "again").config.student == str(student)
    with pytest.raises(NotImplementedError, match="upload the student's own folder"):
        policy.push_to_hub("somebody/student")


@pytest.mark.parametrize(
    ("base", "written"), [("base", "{here}/base"), ("../base", "{here}/../base"), ("hf:owner/name", "hf:owner/name")]
)
def test_a_base_is_named_by_its_full_path(base, written, student, tmp_path, monkeypatch):
    """LeRobot is started in another folder than where the files were written."""
    monkeypatch.chdir(tmp_path)
    model = load_served(student)
    write_policy(FlashwamConfig(student=str(student), base=base), model, tmp_path / "policy", student=student)
    found = json.loads((tmp_path / "policy" / "config.json").read_text())["base"]
    expected = written.format(here=tmp_path)
    assert found == (expected if base.startswith("hf:") else str(Path(expected).resolve()))


def test_a_folder_that_is_not_prepared_says_so(student):
    with pytest.raises(FileNotFoundError, match=r"no config\.json of LeRobot's: `python -m lerobot_policy_flashwam"):
        FlashwamPolicy.from_pretrained(student)


def test_a_folder_of_another_policy_is_refused(tmp_path, capsys):
    from lerobot.policies.act.configuration_act import ACTConfig

    ACTConfig(device="cpu").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'act'; expected flashwam"):
        FlashwamPolicy.from_pretrained(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err


def test_evaluation_drives_the_actions_of_sessions(prepared):
    """LeRobot's own closed loop: every environment's actions are those of a session that saw its pictures."""
    world = TinyWorldConfig()
    config = PreTrainedConfig.from_pretrained(prepared, cli_overrides=["--device=cpu", "--seed=9"])
    config.pretrained_path = prepared
    policy = make_policy(config, env_cfg=world)
    before, after = make_pre_post_processors(
        config,
        pretrained_path=prepared,
        preprocessor_overrides={
            "device_processor": {"device": "cpu"},
            "rename_observations_processor": {"rename_map": {}},
        },
    )
    env_before, env_after = make_env_pre_post_processors(world, config)
    envs = make_env(world, n_envs=2)["tiny_world"][0]
    steps = lerobot_eval.rollout(
        envs, policy, env_before, env_after, before, after, seeds=[30, 31], return_observations=True
    )
    # Contiguous: convolutions round otherwise over another order in memory.
    seen = (steps["observation"][FRONT] * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous().numpy()
    assert steps["action"].shape == (2, 13, 4)
    for number in range(2):
        expected = by_hand(prepared, {FRONT: seen[number, :13]}, prompt=PROMPT, seed=9 + number)
        np.testing.assert_array_equal(steps["action"][number], expected)
    told = lerobot_eval.eval_policy(envs, policy, env_before, env_after, before, after, n_episodes=3, start_seed=5)
    assert told["aggregated"]["pc_success"] == 100.0
    assert len(told["per_episode"]) == 3
    envs.close()


def test_lerobot_eval_takes_the_type(student, tmp_path, monkeypatch):
    options = ["--eval.n_episodes=3", "--eval.batch_size=2", f"--output_dir={tmp_path / 'out'}"]
    model = ["--policy.type=flashwam", f"--policy.student={student}", "--policy.device=cpu", "--policy.nfe=1v/1a"]
    cameras = [f"--policy.cameras={{{FRONT}: {FRONT}}}"]
    monkeypatch.setattr(sys, "argv", ["lerobot-eval", "--env.type=tiny_world", *options, *model, *cameras])
    lerobot_eval.main()
    told = json.loads((tmp_path / "out" / "eval_info.json").read_text())
    assert (told["overall"]["n_episodes"], told["overall"]["pc_success"]) == (3, 100.0)
    assert all(Path(path).stat().st_size for path in told["overall"]["video_paths"])


def test_lerobot_eval_takes_the_path(prepared, tmp_path):
    """The command itself, in a process that has imported nothing of this package."""
    command = [sys.executable, "-m", "lerobot.scripts.lerobot_eval"]
    world = ["--env.discover_packages_path=tiny_world_plugin", "--env.type=tiny_world", "--env.length=6"]
    plugin = tmp_path / "tiny_world_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text("import tiny_world\n")
    options = ["--eval.n_episodes=2", "--eval.batch_size=2", f"--output_dir={tmp_path / 'out'}"]
    policy = [f"--policy.path={prepared}", "--policy.device=cpu", "--policy.prompt=turn it"]
    where = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(
        [*command, *world, *options, *policy],
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "eval_info.json").read_text())["overall"]["pc_success"] == 100.0


def test_a_robots_loop_gets_its_actions(prepared, film):
    """LeRobot's rollout on a robot: one observation in, one action out, by its synchronous engine."""
    from lerobot.rollout.inference.sync import SyncInferenceEngine

    policy = FlashwamPolicy.from_pretrained(prepared)
    before, after = make_pre_post_processors(policy.config, pretrained_path=prepared)
    joints = ["lift.pos", "turn.pos", "grip.pos", "roll.pos"]
    features = {"action": {"dtype": "float32", "shape": (4,), "names": joints}}
    engine = SyncInferenceEngine(policy, before, after, features, joints, PROMPT, "cpu", "toy")
    seen = film(15)
    for episode in range(2):
        engine.reset()
        actions = [engine.get_action({FRONT: picture.copy()}) for picture in seen]
        expected = by_hand(prepared, {FRONT: seen}, prompt=PROMPT, seed=episode)
        np.testing.assert_array_equal(torch.stack(actions), expected)
