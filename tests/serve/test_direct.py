# SPDX-License-Identifier: Apache-2.0
"""A model in this process by diffusers' habits, and its parts by diffusers' own classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    AutoencoderTiny,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers import WanTransformer3DModel as NetworkOfVideoAlone
from numpy.testing import assert_array_equal
from tiny_models import save_tiny_student, tiny_cogvideox
from tiny_released import save_released
from wire import three_chunks

from flashwam.core.noise import NoiseSchedule
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.episodes import CAMERA
from flashwam.serve import direct
from flashwam.serve.direct import WamPipeline
from flashwam.serve.session import PolicySession
from flashwam.student import load_wam
from flashwam.system.errors import MissingFileError
from flashwam.wam.cogvideox.vae import CogVideoXVae
from flashwam.wam.lingbot_va import WanTransformer3DModel
from flashwam.wam.lingbot_va.presets import preset
from flashwam.wam.lingbot_va.vae import WanVae


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return save_released(tmp_path_factory.mktemp("released") / "base", ("fold", ""))


def test_a_call_is_the_first_chunk_of_an_episode(checkpoint, model, episode):
    prompt, observations = episode(3)
    pipeline = WamPipeline.from_pretrained(checkpoint.parent)
    controls = pipeline(prompt, observations[0], seed=5)
    assert (controls.dtype, controls.shape) == (np.float32, (4, 4))
    expected = three_chunks(PolicySession(model), prompt, observations, seed=5)
    assert_array_equal(controls, expected[0][:, 1].T)
    assert_array_equal(three_chunks(pipeline.session(), prompt, observations, seed=5), expected)
    assert pipeline.model.metadata["cameras"] == [CAMERA]
    with pytest.raises(ValueError, match="must be a picture"):
        pipeline(prompt, {CAMERA: observations[0][CAMERA][:9]})


def test_the_pages_example_runs(checkpoint, episode, monkeypatch, tmp_path):
    page = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
    block = page.read_text().partition("## In Python, as diffusers loads\n\n```python\n")[2].partition("```")[0]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "flash_wam").symlink_to(checkpoint.parent)
    monkeypatch.chdir(tmp_path)
    names = {"picture": episode(1)[1][0][CAMERA]}
    exec(block, names)
    assert names["controls"].shape == (4, 4)


def test_a_released_checkpoint_is_named_by_its_preset(released):
    pipeline = WamPipeline.from_pretrained(
        released, torch_dtype=torch.float32, device="cpu", preset="libero", nfe="1v/1a"
    )
    assert pipeline.model.metadata["dtype"] == "float32"
    picture = np.zeros((128, 128, 3), np.uint8)
    controls = pipeline("fold", dict.fromkeys(preset("libero").cameras.cameras, picture), seed=1)
    assert controls.shape == (12, 7)
    with pytest.raises(ValueError, match="dtype must be one of bfloat16, float32; got 'float16'"):
        WamPipeline.from_pretrained(released, torch_dtype=torch.float16, preset="libero")


def test_what_is_no_folder_is_a_model_of_the_hub(checkpoint, monkeypatch, tmp_path):
    asked = []

    def fetch(named):
        asked.append(named)
        if "none" in named:
            raise MissingFileError(f"{named} was never fetched here")
        return checkpoint

    monkeypatch.setattr(direct, "fetch_folder", fetch)
    monkeypatch.chdir(tmp_path)
    load = WamPipeline.from_pretrained
    assert load("lab/tiny").model.metadata["name"] == "tiny"
    load("lab/tiny", revision="v2")
    load("hf:lab/tiny", revision="v3")
    assert asked == ["hf:lab/tiny", "hf:lab/tiny@v2", "hf:lab/tiny@v3"]
    with pytest.raises(FileNotFoundError, match="no folder lab/none here, and hf:lab/none was never fetched"):
        load("lab/none")
    for folder in ("./lab", "../lab/tiny", "a/b/c", "tiny"):
        with pytest.raises(FileNotFoundError):
            load(folder)
    # A folder of that name comes first.
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "tiny").symlink_to(checkpoint)
    load("lab/tiny")
    with pytest.raises(ValueError, match="revision 'v2' is of a model of the hub"):
        load("lab/tiny", revision="v2")
    assert len(asked) == 4


def same(one, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs.pop(key)) for key, value in one.state_dict().items()) and not theirs


def test_autoencoders_open_by_diffusers_own_classes(released, checkpoint, tmp_path):
    wan = AutoencoderKLWan.from_pretrained(released, subfolder="vae")
    assert same(wan, WanVae.from_pretrained(released / "vae", dtype=torch.float32).model)
    joint = tiny_cogvideox(tmp_path / "cogvideox", transformer=False)
    assert same(
        AutoencoderKLCogVideoX.from_pretrained(joint, subfolder="vae"),
        CogVideoXVae.from_pretrained(joint / "vae").model,
    )
    tiny = AutoencoderTiny.from_pretrained(checkpoint, subfolder="vae")
    assert same(tiny, FrameAutoencoder.from_pretrained(checkpoint / "vae").vae)


def test_transformers_open_by_the_class_that_they_are_of(released, checkpoint, tmp_path):
    for folder, options in ((released, {"preset": "libero"}), (checkpoint, {})):
        network = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer", torch_dtype=torch.float32)
        assert same(network, load_wam(folder, dtype=torch.float32, **options)[0].transformer)
    joint = save_tiny_student(tmp_path / "student", joint=True)
    network = CogVideoXTransformer3DModel.from_pretrained(joint, subfolder="transformer")
    assert same(network, load_wam(joint)[0].network.transformer)


def test_diffusers_network_of_the_same_name_is_another(released):
    """The original's configuration names it so; diffusers would begin with random weights, and only warn."""
    _, told = NetworkOfVideoAlone.from_pretrained(released, subfolder="transformer", output_loading_info=True)
    assert set(told["missing_keys"]) == {"patch_embedding.weight", "patch_embedding.bias"}
    assert "action_proj_out.weight" in told["unexpected_keys"]


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_levels_are_those_of_diffusers_scheduler(steps):
    for shift in (5.0, 0.05):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1].tolist())
        own = torch.as_tensor(NoiseSchedule(shift).sampling_grid(steps), dtype=torch.float32)
        torch.testing.assert_close(scheduler.sigmas, own, atol=1e-6, rtol=1e-6)
