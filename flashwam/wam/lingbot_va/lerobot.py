# SPDX-License-Identifier: Apache-2.0
"""Settings of a policy that LeRobot saved, as its own ``config.json`` says, and its controls' quantiles.

Where the file leaves a field out, LeRobot's own default holds, which is that of LIBERO.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import safe_open

from flashwam.data.cameras import CameraLayout
from flashwam.system.errors import InputError, MissingFileError
from flashwam.wam.lingbot_va.checkpoint import TransformerSource
from flashwam.wam.lingbot_va.config import LingBotConfig
from flashwam.wam.lingbot_va.presets import Preset
from flashwam.wam.weights import read_config, read_header

__all__ = ["frozen_parts", "lerobot_preset", "say_differences", "say_recipe_differences"]

POSTPROCESSOR = "policy_postprocessor.json"
_UNNORMALIZER = "unnormalizer_processor"
_MOST = 2**16
_ROLLOUT = ("latent_size", "chunk_frames", "actions_per_frame", "window_chunks", "eviction", "used_channels")
_LAYOUTS = {"width_concat": "width", "robotwin_tshape": "tshape"}
_DEFAULTS: Mapping[str, Any] = {
    "obs_cam_keys": ["observation.images.image", "observation.images.image2"],
    "camera_layout": "width_concat",
    "height": 128,
    "width": 128,
    "frame_chunk_size": 4,
    "action_per_frame": 4,
    "attn_window": 30,
    "num_inference_steps": 20,
    "action_num_inference_steps": 50,
    "snr_shift": 5.0,
    "action_snr_shift": 0.05,
    "guidance_scale": 5.0,
    "action_guidance_scale": 1.0,
    "used_action_channel_ids": list(range(7)),
    "action_dim": 30,
    "video_exec_step": -1,
    "image_hflip": False,
    "use_relative_actions": False,
}

logger = logging.getLogger(__name__)


def lerobot_preset(source: TransformerSource) -> Preset:
    """The settings of a LeRobot policy; its quantiles are None where its post-processor is not beside it.

    Raises:
        ValueError: A field has no meaning, or asks for what this rollout does not do.
    """
    own, unsupported = _read(source)
    if unsupported:
        raise InputError(
            f"{source.folder / 'config.json'} asks for what is not supported: {', '.join(unsupported)}; name a preset "
            "to run the policy without"
        )
    return own


def frozen_parts(source: TransformerSource) -> Path:
    """Finds a policy's ``vae/`` and text encoder: beside it, or where its configuration says, if that is here.

    Raises:
        FileNotFoundError: They are in neither place.
    """
    if (source.folder / "vae").is_dir():
        return source.folder
    said = source.origin.get("wan_pretrained_path")
    if isinstance(said, str) and (Path(said) / "vae").is_dir():
        return Path(said)
    raise MissingFileError(
        f"{source.folder} has no vae/ and text_encoder/ of its own, and its wan_pretrained_path {said!r} is no folder "
        "here: download that checkpoint (hf download OWNER/NAME --local-dir FOLDER) and name it as base"
    )


def say_differences(chosen: Preset, source: TransformerSource) -> None:
    """Warns once of every setting in which a chosen preset differs from a policy's own."""
    own, unsupported = _read(source)
    differ = _differing(chosen, own, [one.name for one in fields(Preset) if one.name != "name"])
    differ += [f"without {what}" for what in unsupported]
    if differ:
        logger.warning(
            "preset %s overrules %s, which says itself how the policy is run: %s. Leave the preset out to follow it",
            chosen.name,
            source.folder / "config.json",
            "; ".join(differ),
        )


def say_recipe_differences(chosen: LingBotConfig, source: TransformerSource) -> None:
    """Warns once of every setting in which a recipe differs from a policy's own."""
    differ = _differing(chosen, _read(source)[0].config, _ROLLOUT)
    if differ:
        logger.warning(
            "the recipe's wam.config overrules %s, which says itself how the policy is run: %s",
            source.folder / "config.json",
            "; ".join(differ),
        )


def _differing(chosen: Any, own: Any, names: Iterable[str]) -> list[str]:
    pairs = [(name, getattr(chosen, name), getattr(own, name)) for name in names]
    return [f"{name} {one} instead of {other}" for name, one, other in pairs if other is not None and one != other]


def _read(source: TransformerSource) -> tuple[Preset, list[str]]:
    """The settings, and what they ask for beyond them."""
    own = {key: value for key, value in {**source.config, **source.origin}.items() if key in _DEFAULTS}
    said = _Fields(_DEFAULTS | own)
    try:
        return _preset(said, source.folder), _unsupported(said)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source.folder / 'config.json'}: {error}") from error


def _unsupported(said: "_Fields") -> list[str]:
    found = []
    if said.whole("video_exec_step") != -1:
        found.append(f"video_exec_step {said.whole('video_exec_step')} (a video drawn in part)")
    if said.flag("use_relative_actions"):
        found.append("use_relative_actions (controls relative to the robot's state)")
    if said.flag("image_hflip"):
        found.append("image_hflip (pictures flipped left to right before they are encoded)")
    return found


class _Fields:
    """Values of a configuration by name, each of the kind that is asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def _get(self, name: str, fits: Callable[[Any], bool], expected: str) -> Any:
        value = self._values[name]
        if not fits(value):
            raise InputError(f"{name} must be {expected}, got {value!r}")
        return value

    def count(self, name: str) -> int:
        return self._get(
            name, lambda value: type(value) is int and 1 <= value <= _MOST, f"a whole number from 1 to {_MOST:,}"
        )

    def number(self, name: str) -> float:
        return float(self._get(name, lambda value: type(value) in (int, float) and abs(value) < 2**62, "a number"))

    def flag(self, name: str) -> bool:
        return self._get(name, lambda value: type(value) is bool, "true or false")

    def whole(self, name: str) -> int:
        return self._get(name, lambda value: type(value) is int, "a whole number")

    def items(self, name: str, kind: type) -> tuple[Any, ...]:
        expected = f"a list of {'texts' if kind is str else 'whole numbers'}"
        return tuple(
            self._get(name, lambda x: isinstance(x, list) and bool(x) and all(type(e) is kind for e in x), expected)
        )

    def one_of(self, name: str, known: Mapping[str, str]) -> str:
        return known[self._get(name, lambda x: isinstance(x, str) and x in known, f"one of {', '.join(known)}")]


def _preset(said: _Fields, folder: Path) -> Preset:
    if said.count("attn_window") < 2:
        raise InputError("attn_window must be 2 or more: a cache with room for a chunk's video and actions")
    used, channels = said.items("used_action_channel_ids", int), said.count("action_dim")
    low, high = _quantiles(folder, used, channels) or (None, None)
    return Preset(
        name="lerobot",
        cameras=CameraLayout(
            cameras=said.items("obs_cam_keys", str),
            image_size=(said.count("height"), said.count("width")),
            arrangement=said.one_of("camera_layout", _LAYOUTS),
        ),
        chunk_frames=said.count("frame_chunk_size"),
        actions_per_frame=said.count("action_per_frame"),
        attn_window=said.count("attn_window"),
        video_steps=said.count("num_inference_steps"),
        action_steps=said.count("action_num_inference_steps"),
        video_shift=said.number("snr_shift"),
        action_shift=said.number("action_snr_shift"),
        # The original guides where a scale is above 1, and not at all otherwise.
        guidance=max(1.0, said.number("guidance_scale")),
        action_guidance=max(1.0, said.number("action_guidance_scale")),
        used=used,
        q01=low,
        q99=high,
    )


def _quantiles(
    folder: Path, used: tuple[int, ...], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """q01 and q99 by model channel, from the policy's post-processor; None where there is none."""
    path = folder / POSTPROCESSOR
    if not path.is_file():
        return None
    steps = read_config(path, weights="its state files").get("steps")
    known = [one for one in steps if isinstance(one, dict)] if isinstance(steps, list) else []
    step = next((one for one in known if one.get("registry_name") == _UNNORMALIZER), {})
    name, config = step.get("state_file"), step.get("config")
    if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
        raise InputError(f"{path.name} names no {_UNNORMALIZER} with a state file beside it")
    norm = config.get("norm_map") if isinstance(config, dict) else None
    if isinstance(norm, dict) and norm.get("ACTION") != "QUANTILES":
        raise InputError(f"{path.name} normalises actions by {norm.get('ACTION')!r}; expected QUANTILES")
    if max(used) >= channels or min(used) < 0:
        raise InputError(f"used_action_channel_ids must lie between 0 and {channels - 1}, got {list(used)}")
    keys = ("action.q01", "action.q99")
    header, _ = read_header(folder / name)
    wrong = [key for key in keys if key not in header or header[key]["shape"] != [len(used)]]
    if wrong:
        raise InputError(f"{name} must hold {' and '.join(keys)}, {len(used)} numbers each; see {', '.join(wrong)}")
    spread = []
    with safe_open(folder / name, framework="pt") as file:
        for key in keys:
            row = [0.0] * channels
            for channel, value in zip(used, file.get_tensor(key).double().tolist(), strict=True):
                row[channel] = value
            spread.append(tuple(row))
    return spread[0], spread[1]
