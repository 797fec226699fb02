# SPDX-License-Identifier: Apache-2.0
"""Pictures, tasks and senses arrive as they were, and what is missing is named."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import FRONT, PROMPT
from lerobot.envs.utils import preprocess_observation
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot_policy_flashwam.configuration_flashwam import FlashwamConfig
from lerobot_policy_flashwam.modeling_flashwam import FlashwamPolicy
from lerobot_policy_flashwam.observations import ObservationReader, to_picture
from oracle import lerobot_batch

from flashwam.serve.model import load_served


@pytest.fixture
def reader(student):
    return ObservationReader(load_served(student), cameras={})


def test_every_grey_level_survives_lerobot():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    simulated = preprocess_observation({"pixels": levels[None]})["observation.image"]
    recorded = prepare_observation_for_inference({FRONT: levels.copy()}, torch.device("cpu"))[FRONT]
    for picture in (simulated[0], recorded[0], recorded[0].double(), torch.from_numpy(levels).permute(2, 0, 1)):
        np.testing.assert_array_equal(to_picture(picture, "a"), levels)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (torch.full((3, 4, 4), 1.5), r"in \[0, 1\]; got values from 1.5 to 1.5"),
        (torch.full((3, 4, 4), -0.2), "from -0.2"),
        (torch.full((3, 4, 4), float("nan")), "from nan"),
        (torch.zeros(4, 4, 3), r"float32 \[4, 4, 3\]"),
        (torch.zeros(3, 4, 4, dtype=torch.bfloat16), "bfloat16"),
    ],
)
def test_other_pictures_are_refused(picture, said):
    with pytest.raises(ValueError, match=f"wrist: expected a picture.*{said}"):
        to_picture(picture, "wrist")


def test_a_camera_is_found_by_its_name_its_map_or_alone(student, film):
    model, picture = load_served(student), film(1)
    for name, cameras in (("front", {}), ("top", {}), ("top", {FRONT: "observation.images.top"})):
        read = ObservationReader(model, cameras=cameras).observation(lerobot_batch({name: picture}, [PROMPT]), 0)
        np.testing.assert_array_equal(read[FRONT], picture[0])


def test_a_missing_camera_names_those_that_are_there(reader, student, film):
    batch = lerobot_batch({"top": film(1), "wrist": film(1)}, [PROMPT])
    with pytest.raises(ValueError, match=r"'observation.images.top', 'observation.images.wrist'.*--policy\.cameras="):
        reader.observation(batch, 0)
    mapped = ObservationReader(load_served(student), cameras={FRONT: "observation.images.side"})
    with pytest.raises(ValueError, match=r"no picture 'observation\.images\.side'"):
        mapped.environments(batch)
    with pytest.raises(ValueError, match=r"no camera 'left'; its cameras are observation\.images\.front"):
        ObservationReader(load_served(student), cameras={"left": "a"})


def test_another_size_is_refused_or_scaled(student, film):
    grey = np.full((1, 128, 96, 3), 77, np.uint8)
    batch, model = lerobot_batch({"front": grey}, [PROMPT]), load_served(student)
    with pytest.raises(ValueError, match=r"pictures of \[64, 64\] pixels; got \[128, 96\].*--policy\.resize=true"):
        ObservationReader(model, cameras={}).observation(batch, 0)
    scaled = ObservationReader(model, cameras={}, resize=True).observation(batch, 0)[FRONT]
    np.testing.assert_array_equal(scaled, np.full((64, 64, 3), 77, np.uint8))


def test_mirrored_pictures_are_mirrored_back(student, make_policy, film):
    model, picture = load_served(student), film(1)
    batch = lerobot_batch({"front": picture[:, :, ::-1].copy()}, [PROMPT])
    read = ObservationReader(model, cameras={}, mirrored=True).observation(batch, 0)
    np.testing.assert_array_equal(read[FRONT], picture[0])
    plain, told = lerobot_batch({"front": picture}, [PROMPT]), make_policy(student, mirrored=True)
    assert torch.equal(told.select_action(batch), make_policy(student).select_action(plain))


@pytest.mark.parametrize("tasks", [None, [], [""], ["a", "b"], [3]])
def test_a_task_is_needed(reader, film, tasks):
    batch = lerobot_batch({"front": film(1)}, [PROMPT]) | {"task": tasks}
    with pytest.raises(ValueError, match=r"--policy\.prompt="):
        reader.prompts(batch, 1)
    assert reader.prompts({"task": PROMPT}, 2) == [PROMPT, PROMPT]


def test_senses_are_read_and_missed(student, film):
    model = load_served(student)
    feeling = replace(model, metadata={**model.metadata, "senses": {"state": 3}})
    reader, batch = ObservationReader(feeling, cameras={}), lerobot_batch({"front": film(2)}, [PROMPT] * 2)
    state = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]], dtype=torch.float64)
    read = reader.observation({**batch, "observation.state": state}, 1)["observation.state"]
    np.testing.assert_array_equal(read, np.array([4.0, 5.0, 6.5], np.float32))
    assert read.dtype == np.float32
    for wrong, said in ((state[:, :2], r"got \[2, 2\]"), (None, "got NoneType")):
        with pytest.raises(ValueError, match=rf"'observation\.state': expected numbers \[environments, 3\]; {said}"):
            reader.observation({**batch, "observation.state": wrong}, 0)


def test_observations_need_a_batch_dimension(reader, film):
    picture = lerobot_batch({"front": film(1)}, [PROMPT])[FRONT][0]
    with pytest.raises(ValueError, match="preprocessor"):
        reader.environments({FRONT: picture, "task": PROMPT})


def test_a_student_that_cannot_act_says_why(student, tmp_path):
    with pytest.raises(ValueError, match=r"--policy\.student=FOLDER"):
        FlashwamPolicy(FlashwamConfig(device="cpu"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FlashwamPolicy(FlashwamConfig(student=str(tmp_path / "nowhere"), device="cpu"))
    deaf = shutil.copytree(student, tmp_path / "deaf")
    (deaf / "codec.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"codec\.json"):
        FlashwamPolicy(FlashwamConfig(student=str(deaf), device="cpu"))


def test_another_robots_student_is_refused(student):
    from lerobot.configs import FeatureType, PolicyFeature

    action = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(7,))}
    with pytest.raises(ValueError, match=r"tiny gives 4 controls; the environment or robot takes actions \[7\]"):
        FlashwamPolicy(FlashwamConfig(student=str(student), device="cpu", output_features=action))


@pytest.mark.parametrize("options", [{"use_amp": True}, {"use_peft": True}, {"seed": -1}])
def test_options_that_would_change_the_model_are_refused(options, monkeypatch):
    monkeypatch.setattr("lerobot.configs.policies.is_amp_available", lambda device: True)
    with pytest.raises(ValueError, match=next(iter(options))):
        FlashwamConfig(device="cpu", **options)


def test_pictures_lie_evenly_between_actions():
    from lerobot_policy_flashwam.episode import actions_between_pictures

    model = SimpleNamespace(metadata={"actions_per_frame": 6, "keyframes_per_frame": 4})
    with pytest.raises(ValueError, match="6 actions a latent frame do not lie evenly between 4 pictures"):
        actions_between_pictures(model)
