# SPDX-License-Identifier: Apache-2.0
"""Description of a CogVideoX checkpoint, without reading its weights."""

from pathlib import Path
from typing import Any

from diffusers import CogVideoXTransformer3DModel

from flashwam.wam.cogvideox.checkpoint import PARTS, find_transformer, module_keys, network_config, training_noise
from flashwam.wam.cogvideox.config import FAMILY
from flashwam.wam.cogvideox.presets import network_name
from flashwam.wam.soundness import nonfinite, part_problems
from flashwam.wam.weights import read_header, some_of, summary

__all__ = ["describe_checkpoint"]


def describe_checkpoint(path: str | Path) -> dict[str, Any]:
    """Family, layout, sizes, dtype, parameters and origin, from configurations and safetensors headers.

    Args:
        path: See `find_transformer`.

    Raises:
        FileNotFoundError: It holds no CogVideoX transformer, or a file is missing.
        ValueError: A file is damaged.
    """
    source = find_transformer(path)
    keys = module_keys(CogVideoXTransformer3DModel, source.folder)
    network = network_config(source.origin)
    metadata: dict[str, str] = {}
    for file in source.files:
        metadata |= read_header(file)[1]
    parts = {part: (source.root / part).is_dir() for part in PARTS}
    return {
        "folder": str(source.root),
        "kind": f"video model ({source.layout} layout)",
        "family": FAMILY,
        "layout": source.layout,
        "size": network_name(network),
        **summary(source.files),
        "keys": keys.wrapped,
        "parts": ["transformer", *(part for part, here in parts.items() if here)],
        "missing parts": [part for part, here in parts.items() if not here],
        "streams": {
            "video": f"{network['out_channels']} channels, v-prediction",
            "action": "none yet; an action module is made when it is adopted",
        },
        "noise": training_noise(source) or None,
        "rollout": "not said by this layout; give chunk and actions when adopting it",
        "network": network,
        "diffusers": source.origin.get("_diffusers_version"),
        "metadata": {key: value for key, value in metadata.items() if key != "format"},
        "problems": some_of([*keys.problems, *nonfinite(source.files), *part_problems(source.root, PARTS)]),
    }
