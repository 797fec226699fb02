# SPDX-License-Identifier: Apache-2.0
"""Target providers: shapes, frozen, saved whole, one preparation of pictures for every use."""

import json

import numpy as np
import pytest
import torch
from tiny_models import tiny_codec
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel

from flashwam.data.pictures import FramePictures
from flashwam.data.privileged import Privileged, privileged_path
from flashwam.foresight import scene_labels as labels_module
from flashwam.foresight.providers import align_frames, find_provider, load_provider, to_grid
from flashwam.foresight.scene import SceneEncoder, train_scene
from flashwam.foresight.scene_labels import read_labels
from flashwam.foresight.vision import VisionModel

DINO = {
    "model_type": "dinov2_with_registers",
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 56,
    "num_register_tokens": 4,
}
DEPTH = {
    "model_type": "depth_anything",
    "backbone_config": {
        "model_type": "dinov2",
        "hidden_size": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 56,
        "out_features": ["stage1", "stage3"],
        "reshape_hidden_states": False,
    },
    "neck_hidden_sizes": [8, 8],
    "reassemble_hidden_size": 12,
    "fusion_hidden_size": 8,
}

SIGLIP = {
    "model_type": "siglip",
    "vision_config": {
        "hidden_size": 12,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 56,
    },
    "text_config": {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
}


def pictures(n=2, count=3, side=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, count, side, side, 3), dtype=torch.uint8, generator=generator)


def vision(model, tmp_path, **options):
    return VisionModel.build({"model": model, "size": 56, **options}, root=tmp_path, seed=0)


@pytest.mark.parametrize("model", [DINO, DEPTH], ids=["dino", "depth"])
def test_a_vision_model_gives_its_patch_tokens(model, tmp_path):
    provider = vision(model, tmp_path)
    seen = provider.extract(pictures())
    assert seen.shape == (2, 12, 3, 4, 4)
    assert seen.dtype == torch.float32
    alone = provider.extract(pictures()[1:, 2:])
    assert_close(alone[0, :, 0], seen[1, :, 2], atol=1e-5, rtol=1e-5)  # a reference is prepared as a target is
    assert not any(p.requires_grad for p in provider.train().parameters())
    assert not provider.training
    provider.save(tmp_path / "saved")
    again = load_provider(tmp_path / "saved")
    assert_close(again.extract(pictures()), seen, rtol=0, atol=0)
    assert again.fingerprint() == provider.fingerprint()
    assert again.describe() == provider.describe()


def test_dinos_tokens_are_those_after_class_and_registers(tmp_path):
    provider = vision(DINO, tmp_path)
    frames = pictures(1, 1, side=56)
    x = frames[0].permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        tokens = provider.model(pixel_values=x).last_hidden_state
    assert tokens.shape[1] == 1 + 4 + 16
    assert_close(provider.extract(frames)[0, :, 0], tokens[0, 5:].T.unflatten(1, (4, 4)))


def test_a_folder_of_transformers_is_read_and_of_two_halves_the_one_that_sees(tmp_path):
    for name, config in (("dino", DINO), ("siglip", SIGLIP)):
        values = dict(config)
        model = AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        model.save_pretrained(tmp_path / name)
        provider = vision(str(tmp_path / name), tmp_path)
        assert provider.extract(pictures()).shape == (2, 12, 3, 4, 4)
        ours, theirs = provider.model.state_dict(), getattr(model, "vision_model", model).state_dict()
        shared = [key for key in theirs if key in ours or f"vision_model.{key}" in ours]
        assert len(shared) == len(theirs)
        assert all(torch.equal(ours.get(key, ours.get(f"vision_model.{key}")), theirs[key]) for key in shared)
        provider.save(tmp_path / "saved")
        assert_close(load_provider(tmp_path / "saved").extract(pictures()), provider.extract(pictures()))


def test_a_stage_of_a_backbone_can_be_chosen(tmp_path):
    first, last = (vision(DEPTH, tmp_path, stage=stage).extract(pictures()) for stage in (0, None))
    assert (first - last).abs().max() > 1e-2
    deep = vision(DINO, tmp_path, stage=1)
    assert deep.extract(pictures()).shape == (2, 12, 3, 4, 4)
    assert "stage 1" in deep.describe()


def test_what_cannot_be_had_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be loaded .*name: scene"):
        vision(str(tmp_path / "nothing"), tmp_path)
    with pytest.raises(ValueError, match=r"unknown \['depht'\]"):
        vision(DINO, tmp_path, depht=1)
    with pytest.raises(ValueError, match="multiple of the patch 14; got 60"):
        VisionModel.build({"model": DINO, "size": 60}, root=tmp_path, seed=0)
    with pytest.raises(
        ValueError, match=r"unknown target provider 'dino'; expected one of \['each_camera', 'scene', 'vision'\]"
    ):
        find_provider("dino")
    with pytest.raises(FileNotFoundError, match="expected a target provider"):
        load_provider(tmp_path)
    with pytest.raises(TypeError, match=r"uint8 pictures \[n, P, H, W, 3\]"):
        vision(DINO, tmp_path).extract(pictures()[0])


def test_a_scene_encoder_learns_its_labels_and_is_saved(tmp_path):
    frames = pictures(24, 1)[:, 0].numpy()
    frames[:, :, :32] //= 2  # the left half is darker
    classes = np.zeros(frames.shape[:3], dtype=np.int64)
    classes[:, :, :32] = 1
    provider = train_scene(frames, classes, labels="side", steps=80, batch_size=8, width=8, learning_rate=1e-2)
    with torch.no_grad():
        guess = provider.head(provider.look(torch.from_numpy(frames))).argmax(1)
    assert (guess.numpy() == classes).mean() > 0.95
    assert provider.extract(pictures()).shape == (2, 8, 3, 8, 8)
    assert not any(p.requires_grad for p in provider.parameters())
    assert provider.parameter_count < sum(p.numel() for p in provider.parameters())
    provider.save(tmp_path)
    again = load_provider(tmp_path)
    assert isinstance(again, SceneEncoder)
    assert_close(again.extract(pictures()), provider.extract(pictures()), rtol=0, atol=0)
    repeated = train_scene(frames, classes, labels="side", steps=80, batch_size=8, width=8, learning_rate=1e-2)
    assert repeated.fingerprint() == provider.fingerprint()


def test_a_scene_encoder_learns_a_quantity():
    frames = pictures(24, 1)[:, 0].numpy()
    bright = np.repeat(np.repeat(frames[:, ::8, ::8].mean(-1), 8, 1), 8, 2).astype(np.float32)
    frames = np.repeat(np.repeat(frames[:, ::8, ::8], 8, 1), 8, 2)
    provider = train_scene(frames, bright, labels="brightness", steps=80, batch_size=8, width=8, learning_rate=1e-2)
    with torch.no_grad():
        guess = provider.head(provider.look(torch.from_numpy(frames)))[:, 0].numpy()
    assert np.corrcoef(guess.ravel(), bright.ravel())[0, 1] > 0.8
    with pytest.raises(ValueError, match="not finite"):
        train_scene(frames, np.full_like(bright, np.nan), labels="brightness", steps=1)
    with pytest.raises(ValueError, match="expected pictures"):
        train_scene(frames, bright[:, :8], labels="brightness", steps=1)


@pytest.fixture
def episodes(tmp_path, monkeypatch):
    """A repo of two short episodes, without video files: pictures are read from memory."""
    repo = tmp_path / "task"
    (repo / "meta").mkdir(parents=True)
    (repo / "meta" / "info.json").write_text(json.dumps({"render_every": 2}))
    held = pictures(2, 6).numpy()
    listed = [{"episode_index": i, "length": 6} for i in range(2)]
    monkeypatch.setattr(labels_module, "find_repos", lambda root: [repo])
    monkeypatch.setattr(labels_module, "read_episode_list", lambda repo: listed)
    monkeypatch.setattr(labels_module, "read_info", lambda repo: {"render_every": 2})
    monkeypatch.setattr(labels_module, "video_path", lambda repo, index: index)
    monkeypatch.setattr(labels_module, "read_frames", lambda index, rows: held[index][list(rows)])
    return tmp_path, repo, held


def test_pictures_have_labels_of_their_own(episodes):
    root, _, held = episodes
    frames, colours = read_labels(root, "colours")
    assert np.array_equal(frames, held[:, ::2].reshape(6, 64, 64, 3))
    red, green, blue = (frames[3, 5, 7] >= 128).tolist()
    assert colours[3, 5, 7] == 4 * red + 2 * green + blue
    frames, motion = read_labels(root, "motion")
    assert len(frames) == len(motion) == 4
    change = np.abs(held[1, 4].astype(int) - held[1, 2].astype(int)).max(-1) / 255
    assert_close(torch.from_numpy(motion[3]), torch.from_numpy(change).float())


def test_the_simulators_labels_are_read_where_they_are(episodes):
    root, repo, held = episodes
    with pytest.raises(FileNotFoundError, match="play the episodes again for depth"):
        read_labels(root, "depth")
    rows = np.array([0, 2, 4])
    depth = np.random.default_rng(0).random((2, 3, 64, 64)).astype(np.float16)
    for index in range(2):
        record = Privileged(
            rows=rows,
            depth=depth[index],
            segmentation=(depth[index] > 0.5).astype(np.uint8),
            hand=np.zeros((6, 3), np.float32),
            hand_pixels=np.zeros((6, 2), np.float32),
            intrinsics=np.eye(3, dtype=np.float32),
            pose=np.eye(4, dtype=np.float32),
        )
        record.save(privileged_path(repo, index))
    frames, known = read_labels(root, "depth")
    assert np.array_equal(frames, held[:, ::2].reshape(6, 64, 64, 3))
    assert np.array_equal(known, depth.reshape(6, 64, 64).astype(np.float32))
    assert read_labels(root, "segmentation")[1].dtype == np.int64
    with pytest.raises(ValueError, match="labels must be one of"):
        read_labels(root, "normals")


def test_a_scene_provider_is_trained_once_per_data_folder(episodes):
    root, _, _ = episodes
    options = {"labels": "colours", "steps": 2, "width": 8}
    first = SceneEncoder.build(options, root=root, seed=0)
    assert SceneEncoder.build(options, root=root, seed=0).fingerprint() == first.fingerprint()
    assert len(list((root / "scene").iterdir())) == 1
    with pytest.raises(ValueError, match="a scene provider takes labels"):
        SceneEncoder.build({"labels": "colours", "stpes": 2}, root=root, seed=0)


def test_a_coarser_grid_averages_and_an_equal_one_is_left_alone():
    x = torch.randn(2, 3, 4, 8, 8)
    assert to_grid(x, (8, 8)) is x
    coarse = to_grid(x, (2, 4))
    assert coarse.shape == (2, 3, 4, 2, 4)
    constant = torch.arange(4.0)[None, None, :, None, None].expand(1, 1, 4, 8, 8)
    assert_close(to_grid(constant, (3, 3))[0, 0, :, 1, 1], torch.arange(4.0))


def test_pictures_of_a_causal_autoencoder_belong_to_latent_frames():
    x = torch.arange(9.0)[None, None, :, None, None]
    assert align_frames(x, 9, "last") is x
    assert align_frames(x, 3, "last").flatten().tolist() == [0, 4, 8]
    assert align_frames(x, 3, "mean").flatten().tolist() == [0, 2.5, 6.5]
    with pytest.raises(ValueError, match="9 pictures do not belong to 4 latent frames"):
        align_frames(x, 4, "last")


def test_pictures_are_those_of_the_codec(tmp_path):
    codec = tiny_codec()
    decoder = FramePictures(codec.autoencoder)
    latents = torch.randn(2, 3, 4, 8, 8)
    assert np.array_equal(decoder.pictures(latents).numpy(), codec.pictures(latents))
    decoder.save(tmp_path)
    assert torch.equal(FramePictures.load(tmp_path).pictures(latents), decoder.pictures(latents))
    assert 0 < decoder.parameter_count < sum(p.numel() for p in decoder.parameters())
