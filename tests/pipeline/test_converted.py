# SPDX-License-Identifier: Apache-2.0
"""Recordings are read as they were converted: of those pictures, by that autoencoder, with those controls."""

from types import SimpleNamespace

import pytest

pytest.importorskip("av")

import torch
from raw_sets import CAMERAS, write_v2

from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.evaluation.windows import recorded_windows
from flashwam.pipeline.norms import action_norm
from flashwam.pipeline.sources import convert_raw, segment_dataset
from flashwam.recipe.load import load_recipe


def autoencoder(folder, seed):
    torch.manual_seed(seed)
    model = FrameAutoencoder(latent_channels=3, width=16)
    model.std.fill_(2.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("converted")
    write_v2(root / "raw" / "towels")
    autoencoder(root / "vae", 0)
    convert_raw(recipe(root), root / "raw", root / "data", progress=False)
    return root


def recipe(root, *changes):
    return load_recipe(
        "libero/flash_wam",
        [
            "wam.pretrained=null",
            f"autoencoder.pretrained={root / 'vae'}",
            f"data.root={root / 'data'}",
            f"data.cameras=[{','.join(CAMERAS)}]",
            "data.tasks=[towels]",
            "data.layout=width",
            "data.camera_size=[32,48]",
            "data.stride=2",
            "data.used_channels=[0,1,2,3,4,5,28]",
            "data.q01=null",
            "data.q99=null",
            "data.processes=1",
            "data.window_frames=4",
            *changes,
        ],
    )


def test_as_it_was_converted_it_is_read(place):
    assert len(segment_dataset(recipe(place))) > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.resize=cover", "resize: 'stretch' there, 'cover' now"),
        ("data.stride=1", "stride: 2 there, 1 now"),
        ("data.action_key=observation.state", "action_key: 'action' there, 'observation.state' now"),
        ("data.camera_size=[64,64]", r"size: \[32, 48\] there, \[64, 64\] now"),
    ],
)
def test_other_pictures_than_it_was_converted_with_are_refused(place, change, told):
    with pytest.raises(ValueError, match=rf"was converted otherwise than this recipe reads it \({told}\)"):
        segment_dataset(recipe(place, change))


def test_nor_is_a_model_judged_on_them(place):
    model = SimpleNamespace(folder=place / "nowhere", info=SimpleNamespace(recipe=None), name="towels")
    with pytest.raises(ValueError, match="resize: 'stretch' there, 'cover' now"):
        recorded_windows(model, recipe(place, "data.resize=cover"), data=place / "data")


def test_another_autoencoder_is_refused_and_the_same_elsewhere_is_not(place):
    same, other = autoencoder(place / "copy", 0), autoencoder(place / "other", 1)
    assert len(segment_dataset(recipe(place, f"autoencoder.pretrained={same}"))) > 0
    with pytest.raises(ValueError, match="encoded by another autoencoder"):
        segment_dataset(recipe(place, f"autoencoder.pretrained={other}"))
    # Its latents are those of its mean and standard deviation.
    path = same / "latent_stats.json"
    path.write_text(path.read_text().replace("2.0", "0.5"))
    with pytest.raises(ValueError, match="encoded by another autoencoder"):
        segment_dataset(recipe(place, f"autoencoder.pretrained={same}"))


def test_controls_that_were_measured_otherwise_are_refused_until_they_are_measured_anew(place, caplog):
    unscaled = recipe(place, "data.unscaled_controls=[2]")
    with pytest.raises(ValueError, match=r"measured otherwise .*unscaled_controls: \[\] there, \[2\] now"):
        action_norm(unscaled)
    caplog.clear()
    convert_raw(unscaled, place / "raw", place / "data", progress=False)
    assert "normalisation cannot be used" not in caplog.text
    assert action_norm(unscaled).q01[2] == -1
    convert_raw(recipe(place), place / "raw", place / "data", progress=False)
    assert action_norm(recipe(place)).q01[2] != -1
