# SPDX-License-Identifier: Apache-2.0
"""CogVideoX 1.5 is refused in one sentence, whichever way it comes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from diffusers import CogVideoXTransformer3DModel

from flashwam.commands.describe import describe
from flashwam.plan import make_plan
from flashwam.recipe.load import load_recipe
from flashwam.student import load_wam
from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.cogvideox.config import CogVideoXConfig

SENTENCE = (
    r"CogVideoX 1\.5 \(patch_size_t, ofs_embed_dim\) is not supported; expected CogVideoX-2b, -5b or -5b-I2V, got "
)
SMALL = {"num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 8, "text_embed_dim": 12}
SMALL |= {"num_layers": 1, "max_text_seq_length": 6, "use_rotary_positional_embeddings": True, "out_channels": 16}
VERSIONS = {
    "text to video": {"in_channels": 16, "patch_size_t": 2, "patch_bias": False},
    "image to video": {"in_channels": 32, "patch_size_t": 2, "ofs_embed_dim": 8, "patch_bias": False},
    "ofs alone": {"in_channels": 32, "ofs_embed_dim": 8},
}
CHUNK = {"latent_size": (4, 4), "chunk_frames": 3, "actions_per_frame": 2, "action_dim": 5}


@pytest.fixture(params=VERSIONS)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SMALL | VERSIONS[request.param]


@pytest.fixture
def checkpoint(options: dict[str, Any], tmp_path: Path) -> Path:
    CogVideoXTransformer3DModel(**options).save_pretrained(tmp_path / "base" / "transformer")
    return tmp_path / "base"


def refused(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=SENTENCE):
        call()


@pytest.mark.parametrize("conditioning", ["channel_concat", "prefix"])
def test_it_is_refused_on_every_path(checkpoint: Path, options: dict[str, Any], conditioning: str) -> None:
    refused(lambda: describe(checkpoint))
    refused(lambda: describe(checkpoint / "transformer"))
    refused(lambda: CogVideoX.adopt(checkpoint, **CHUNK, conditioning=conditioning))
    refused(lambda: CogVideoX.create(**CHUNK, conditioning=conditioning, **options))
    for command, recipe in (("train", "videovla/robot/teacher"), ("distill", "videovla/robot/videovla")):
        for said in (f"wam.pretrained={checkpoint}", "wam.config.patch_size_t=2"):
            asked = load_recipe(recipe, [f"wam.config.conditioning={conditioning}", said])
            refused(partial(make_plan, asked, command))


def test_a_folder_that_says_how_it_is_run_is_refused_too(checkpoint: Path) -> None:
    CogVideoXConfig(**CHUNK).save(checkpoint)
    refused(lambda: load_wam(checkpoint, preset="videovla"))
    refused(lambda: CogVideoX.from_pretrained(checkpoint))
