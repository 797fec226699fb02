# SPDX-License-Identifier: Apache-2.0
"""An autoencoder whose latents would be scaled by nonsense is not loaded, whichever family's it is."""

import json
import math
import re

import pytest
from diffusers import AutoencoderKLWan
from tiny_models import tiny_video_autoencoder

from flashwam.wam.cogvideox.vae import CogVideoXVae
from flashwam.wam.lingbot_va.vae import WAN22_CONFIG, WanVae


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny autoencoder of either family, saved."""
    root = tmp_path_factory.mktemp("vaes")
    small = {**WAN22_CONFIG, "base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
    AutoencoderKLWan(**small).save_pretrained(root / "wan")
    tiny_video_autoencoder().save_pretrained(root / "cogvideox")
    return root


@pytest.fixture
def edit(folders):
    """Changes one value of a config.json, until the test is over."""
    kept = {}

    def change(name, key, value, place=None):
        path = folders / name / "config.json"
        kept[path] = path.read_text()
        values = json.loads(kept[path])
        if place is None:
            values[key] = value
        else:
            values[key][place] = value
        path.write_text(json.dumps(values))
        return folders / name

    yield change
    for path, text in kept.items():
        path.write_text(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [("mean", 1e30), ("mean", -1e30), ("std", 0.0), ("std", -0.4), ("std", 1e-30)],
)
def test_wans_statistics_are_named_by_file_field_and_channel(edit, key, value):
    folder = edit("wan", f"latents_{key}", value, 7)
    with pytest.raises(
        ValueError, match=rf"config.json: latents_{key} of channel 7 must be .* got {re.escape(str(value))}"
    ):
        WanVae.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "key", "place", "kind"),
    [
        ("wan", "latents_mean", 7, WanVae),
        ("wan", "latents_std", 7, WanVae),
        ("cogvideox", "scaling_factor", None, CogVideoXVae),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_named_by_its_place(edit, name, key, place, kind, value):
    where = key if place is None else f"{key}[{place}]"
    with pytest.raises(ValueError, match=rf"config.json .* no finite number, at {re.escape(where)}"):
        kind.from_pretrained(edit(name, key, value, place))


@pytest.mark.parametrize("value", [0.0, -1.15, 1e30])
def test_cogvideoxs_scale_is_named_by_file_and_field(edit, value):
    folder = edit("cogvideox", "scaling_factor", value)
    with pytest.raises(
        ValueError, match=rf"config.json: scaling_factor must be positive, .* got {re.escape(str(value))}"
    ):
        CogVideoXVae.from_pretrained(folder)
