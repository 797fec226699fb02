# SPDX-License-Identifier: Apache-2.0
"""The pictures that a vision model is shown: in their own shape and its own units, each camera by itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foresight_toys import Colour
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel

from flashwam.distillation.setup import Setup
from flashwam.foresight.each_camera import EachCamera, build_providers
from flashwam.foresight.picture_norm import IMAGENET, PictureNorm
from flashwam.foresight.providers import load_provider, to_grid
from flashwam.foresight.vision import VisionModel

TINY = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}
DINO = {"model_type": "dinov2_with_registers", "num_register_tokens": 4, **TINY}
SIGLIP = {"model_type": "siglip_vision_model", "intermediate_size": 16, **TINY}
CLIP = {"model_type": "clip_vision_model", "intermediate_size": 16, **TINY}


def pictures(rows: int, columns: int, *, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, count, rows, columns, 3), dtype=torch.uint8, generator=generator)


def vision(model: Any, tmp_path: Path, **options: Any) -> VisionModel:
    return VisionModel.build({"model": model, "size": 56, **options}, root=tmp_path, seed=0)


def shown_to(provider: VisionModel) -> list[torch.Tensor]:
    """The pixels of every later call."""
    held: list[torch.Tensor] = []
    provider.model.register_forward_pre_hook(
        lambda _, args, given: held.append(given["pixel_values"]), with_kwargs=True
    )
    return held


@pytest.mark.parametrize("model", [DINO, SIGLIP, CLIP], ids=["dino", "siglip", "clip"])
def test_a_picture_keeps_its_shape(model, tmp_path):
    provider = vision(model, tmp_path)
    shown = shown_to(provider)
    assert provider.extract(pictures(48, 72)).shape == (1, 12, 2, 4, 6)
    assert shown[0].shape[2:] == (56, 84)
    assert provider.extract(pictures(64, 64)).shape == (1, 12, 2, 4, 4)
    provider.save(tmp_path / "saved")
    again = load_provider(tmp_path / "saved")
    assert_close(again.extract(pictures(48, 72)), provider.extract(pictures(48, 72)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "mean", "std"),
    [
        (SIGLIP, (0.5,) * 3, (0.5,) * 3),
        (CLIP, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        (DINO, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
    ids=["siglip", "clip", "dino"],
)
def test_pixels_are_in_the_models_own_units(model, mean, std, tmp_path):
    provider = vision(model, tmp_path)
    shown = shown_to(provider)
    frames = pictures(56, 56, count=1)
    provider.extract(frames)
    given = frames[0].permute(0, 3, 1, 2) / 255
    assert_close(shown[0], (given - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])


def test_a_processor_beside_the_weights_says_the_units(tmp_path):
    values = dict(DINO)
    AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values)).save_pretrained(tmp_path / "model")
    assert vision(str(tmp_path / "model"), tmp_path).norm == IMAGENET
    told = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(told))
    provider = vision(str(tmp_path / "model"), tmp_path)
    assert provider.norm == PictureNorm((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    provider.save(tmp_path / "saved")
    assert load_provider(tmp_path / "saved").norm == provider.norm
    told["image_std"] = [0.4, 0.5, 0]
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="three deviations above 0"):
        vision(str(tmp_path / "model"), tmp_path)


def test_what_an_earlier_version_saved_sees_what_it_saw(tmp_path):
    provider = vision(SIGLIP, tmp_path)
    provider.save(tmp_path)
    held = json.loads((tmp_path / "provider.json").read_text())
    for key in ("mean", "std", "square"):
        del held["settings"][key]
    (tmp_path / "provider.json").write_text(json.dumps(held))
    again = load_provider(tmp_path)
    assert again.norm == IMAGENET
    assert again.extract(pictures(48, 72)).shape == (1, 12, 2, 4, 4)


def test_a_model_of_clips_is_refused_by_name(tmp_path):
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14, "crop_size": 56}
    own = {f"pred_{name}": value for name, value in sizes.items() if name.startswith(("hidden", "num"))}
    with pytest.raises(ValueError, match=r"vjepa2 .* takes \['pixel_values_videos'\], and no single pictures"):
        vision({"model_type": "vjepa2", **sizes, **own}, tmp_path)


def test_cameras_side_by_side_are_seen_one_by_one(tmp_path):
    inner = vision(DINO, tmp_path)
    provider = EachCamera(inner, layout="width", cameras=2)
    canvas = pictures(64, 128)
    seen = provider.extract(canvas)
    assert seen.shape == (1, 12, 2, 4, 8)
    alone = [inner.extract(part) for part in canvas.chunk(2, 3)]
    assert_close(seen, torch.cat(alone, -1))
    provider.save(tmp_path / "saved")
    again = load_provider(tmp_path / "saved")
    assert_close(again.extract(canvas), seen, rtol=0, atol=0)
    assert again.fingerprint() == provider.fingerprint() != inner.fingerprint()
    with pytest.raises(ValueError, match="64 x 127 pixels cannot be cut into 2 cameras"):
        provider.extract(canvas[:, :, :, :127])


def test_the_wrists_stand_above_the_head_at_half_its_size(tmp_path):
    inner = vision(DINO, tmp_path)
    canvas = pictures(84, 56)
    seen = EachCamera(inner, layout="tshape", cameras=3).extract(canvas)
    assert seen.shape == (1, 12, 2, 6, 4)
    assert_close(seen[:, :, :, 2:], inner.extract(canvas[:, :, 28:]))
    for place, view in enumerate((canvas[:, :, :28, :28], canvas[:, :, :28, 28:])):
        columns = slice(2 * place, 2 * place + 2)
        assert_close(seen[:, :, :, :2, columns], to_grid(inner.extract(view), (2, 2)))


def test_a_recipe_of_several_cameras_has_them_seen_one_by_one(tmp_path):
    given = {"name": "foresight_toys:Colour"}
    one, two = (
        build_providers({"colour": given}, Setup(data=tmp_path, streams={}, seed=0, cameras=count))["colour"]
        for count in (1, 2)
    )
    assert isinstance(one, Colour)
    assert isinstance(two, EachCamera)
    assert isinstance(two.inner, Colour)
