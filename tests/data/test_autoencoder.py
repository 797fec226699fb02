# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from flashwam.data import autoencoder as module
from flashwam.data.autoencoder import FrameAutoencoder, psnr, train_autoencoder

SMALL = {"latent_channels": 3, "width": 16}


def test_psnr_of_known_errors():
    a = np.zeros((4, 4, 3), dtype=np.uint8)
    assert psnr(a, a + 255) == pytest.approx(0)
    assert psnr(a, a + 1) == pytest.approx(20 * np.log10(255))


def test_shapes_and_batching(autoencoder):
    frames = np.random.default_rng(0).integers(0, 255, (2, 5, 16, 24, 3), dtype=np.uint8)
    latents = autoencoder.encode(frames)
    assert latents.shape == (2, 5, 3, 2, 3)
    assert torch.allclose(autoencoder.encode(frames, batch_size=3), latents, atol=1e-5)
    assert autoencoder.decode(latents).shape == frames.shape
    assert autoencoder.decode(latents).dtype == torch.uint8


def test_refuses_what_is_no_picture(autoencoder):
    with pytest.raises(TypeError, match="uint8"):
        autoencoder.encode(torch.zeros(16, 16, 3))
    with pytest.raises(ValueError, match="multiples of 8"):
        autoencoder.encode(np.zeros((12, 16, 3), dtype=np.uint8))


def test_survives_saving_exactly(autoencoder, tmp_path):
    autoencoder.save_pretrained(tmp_path)
    again = FrameAutoencoder.from_pretrained(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    assert torch.equal(again.encode(frames), autoencoder.encode(frames))
    with pytest.raises(FileNotFoundError, match="no complete autoencoder"):
        FrameAutoencoder.from_pretrained(tmp_path / "nothing")


def test_training_learns_and_normalises(made_up, tmp_path):
    long = train_autoencoder(made_up, tmp_path / "a", steps=150, batch_size=8, progress=False, **SMALL)
    short = train_autoencoder(made_up, tmp_path / "b", steps=2, batch_size=8, progress=False, **SMALL)
    assert long.psnr > short.psnr + 3
    frames = np.concatenate(module.load_training_frames(made_up, progress=False))
    latents = long.encode(frames)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.2
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 3}, "steps: 2 there, 3 now"),
        ({"learning_rate": 1e-3}, r"learning_rate: 0\.002 there, 0\.001 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"width": 24}, "width: 16 there, 24 now"),
    ],
)
def test_one_that_was_trained_otherwise_is_refused(made_up, tmp_path, settings, told):
    options = {"steps": 2, "batch_size": 8, "progress": False, **SMALL}
    first = train_autoencoder(made_up, tmp_path / "vae", **options)
    with pytest.raises(ValueError, match=rf"vae holds .*trained otherwise \({told}\): .*autoencoder\.pretrained"):
        train_autoencoder(made_up, tmp_path / "vae", **{**options, **settings})
    again = train_autoencoder(made_up, tmp_path / "vae", **options, checkpoint_every=1)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_one_from_before_settings_were_kept_is_taken_unless_its_shape_tells_otherwise(made_up, tmp_path):
    options = {"steps": 2, "batch_size": 8, "progress": False, **SMALL}
    train_autoencoder(made_up, tmp_path / "vae", **options)
    (tmp_path / "vae" / "training.json").unlink()
    assert train_autoencoder(made_up, tmp_path / "vae", **{**options, "steps": 5}).config["width"] == 16
    with pytest.raises(ValueError, match=r"trained otherwise \(width: 16 there, 24 now\)"):
        train_autoencoder(made_up, tmp_path / "vae", **{**options, "width": 24})


def test_killed_training_ends_with_the_same_weights(made_up, tmp_path, monkeypatch):
    options = {"steps": 12, "batch_size": 4, "checkpoint_every": 5, "progress": False, **SMALL}
    whole = train_autoencoder(made_up, tmp_path / "whole", **options)

    class Killed(BaseException):
        pass

    checkpoint = module._checkpoint

    def checkpoint_then_die(*args):
        checkpoint(*args)
        raise Killed

    monkeypatch.setattr(module, "_checkpoint", checkpoint_then_die)
    for _ in range(2):
        with pytest.raises(Killed):
            train_autoencoder(made_up, tmp_path / "killed", **options)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="steps: 12 there, 13 now"):
        train_autoencoder(made_up, tmp_path / "killed", **{**options, "steps": 13})
    resumed = train_autoencoder(made_up, tmp_path / "killed", **options)
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.state_dict().items())
    assert not (tmp_path / "killed" / "training.pt").exists()
