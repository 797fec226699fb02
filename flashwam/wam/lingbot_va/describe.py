# SPDX-License-Identifier: Apache-2.0
"""Description of a checkpoint of any known layout, without reading its weights."""

from pathlib import Path
from typing import Any

from flashwam.system.paths import user_path
from flashwam.wam.lingbot_va.checkpoint import PARTS, ROLES, TransformerSource, find_transformer, transformer_keys
from flashwam.wam.soundness import nonfinite, part_problems
from flashwam.wam.weights import read_header, some_of, summary

__all__ = ["describe_checkpoint"]

_ROLLOUT = (
    "wan_pretrained_path",
    "camera_layout",
    "obs_cam_keys",
    "height",
    "width",
    "frame_chunk_size",
    "action_per_frame",
    "attn_window",
    "num_inference_steps",
    "action_num_inference_steps",
    "guidance_scale",
    "action_guidance_scale",
    "snr_shift",
    "action_snr_shift",
    "used_action_channel_ids",
)
"""The keys of LeRobot's configuration beyond the transformer."""
_STUDENT = {"video": "lcm (sigma_data 0.5), as the Flash-WAM release trains it", "action": "linear, likewise"}


def describe_checkpoint(path: str | Path) -> dict[str, Any]:
    """Family, layout, sizes, dtype, parameters, streams and origin, from configurations and safetensors headers.

    Args:
        path: See `find_transformer`. A step of the Flash-WAM release is described with every student it holds.

    Raises:
        FileNotFoundError: It holds no LingBot-VA transformer, or a file is missing.
        ValueError: A file is damaged or another model's.
    """
    path = user_path(path)
    roles = [role for role in ROLES if (path / role / "transformer").is_dir()]
    if len(roles) > 1:
        both = {role: _describe(find_transformer(path, role=role)) for role in roles}
        return {"folder": str(path), "kind": "step of the Flash-WAM release", "evaluated": ROLES[0], **both}
    return _describe(find_transformer(path))


def _describe(source: TransformerSource) -> dict[str, Any]:
    files, keys = source.files, transformer_keys(source)
    student = source.layout == "flash-wam"
    sizes = {key: source.config.get(key) for key in ("in_channels", "action_dim")}
    known = _STUDENT if student else dict.fromkeys(_STUDENT, "velocity, the teacher's own steps")
    streams = {
        name: f"{size or 'default'} channels, {known[name]}"
        for name, size in zip(_STUDENT, sizes.values(), strict=True)
    }
    metadata: dict[str, str] = {}
    for file in files:
        metadata |= read_header(file)[1]
    parts = {part: (source.root / part).is_dir() for part in PARTS}
    rollout = {key: source.origin[key] for key in _ROLLOUT if key in source.origin}
    return {
        "folder": str(source.root),
        "kind": f"{'student' if student else 'teacher'} ({source.layout} layout)",
        "family": "lingbot_va",
        "layout": source.layout,
        **summary(files),
        "keys": keys.wrapped,
        "parts": ["transformer", *(part for part, here in parts.items() if here)],
        "missing parts": [part for part, here in parts.items() if not here],
        "streams": streams,
        "rollout": rollout or "not said by this layout; name a preset when loading, such as robotwin or libero",
        "network": {key: value for key, value in source.config.items() if key != "attn_mode"},
        "diffusers": source.origin.get("_diffusers_version"),
        "metadata": {key: value for key, value in metadata.items() if key != "format"},
        "problems": some_of([*keys.problems, *nonfinite(files), *part_problems(source.root, PARTS)]),
    }
