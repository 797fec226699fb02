# SPDX-License-Identifier: Apache-2.0
"""Tiny recorded episodes with the robot's state, a tiny geometry transformer, and the recipe for LIBERO at their size."""

from pathlib import Path

import torch
from raw_sets import CAMERAS, write_v3

from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.swiftvla.geometry import GeometryConfig, GeometryTransformer

SIDE = 16
TINY_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
SMOLVLM = {
    "scale_factor": 2,
    "vision_config": TINY_VISION,
    "text_config": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 1,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}


def save_geometry(folder: Path, *, seed: int = 0) -> Path:
    """16 pixels, patches of 4, 32 channels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GeometryTransformer(GeometryConfig(size=SIDE, patch=4, width=16, depth=2, heads=2))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    return folder


def write_recordings(root: Path) -> None:
    """`raw/towels`, three episodes of two cameras, and `geometry`."""
    write_v3(root / "raw" / "towels", states=True)
    save_geometry(root / "geometry")


def tiny(root: Path, name: str = "swiftvla/libero/full", **changes: object) -> Recipe:
    """A recipe for LIBERO on these episodes, the last of which is held out."""
    values: dict[str, object] = {
        "data.root": root / "data",
        "data.tasks": ["towels"],
        "data.cameras": list(CAMERAS),
        "data.camera_size": [32, 48],
        "data.stride": 2,
        "data.window_frames": 4,
        "data.held_out_every": 3,
        "data.processes": 1,
        "wam.config.pretrained": None,
        "wam.config.smolvlm": SMOLVLM,
        "wam.config.layers": 2,
        "wam.config.latent": [3, 32, 96],
        "wam.config.chunk_frames": 4,
        "wam.config.actions_per_frame": 2,
        "wam.config.expert_width": 16,
        "train.steps": 4,
        "train.batch_size": 2,
        "train.accumulation": 1,
        "train.precision": "no",
        "train.save_every": 2,
        "train.log_every": 1,
        "evaluate.open_loop_samples": 8,
    }
    if name != "swiftvla/libero/2d":
        values |= {
            "train.options.auxiliary": {"tokens": 4, "channels": 32},
            "train.options.provider.pretrained": root / "geometry",
            "train.options.provider.raw": root / "raw",
            "train.options.provider.side": 2,
            "train.options.fusion_tokens": 3,
            "train.options.head_width": 16,
            "train.options.start_step": 2,
        }
    return load_recipe(name, [f"{key}={_text(value)}" for key, value in (values | changes).items()])


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return "null" if value is None else str(value)
