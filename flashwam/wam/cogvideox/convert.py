# SPDX-License-Identifier: Apache-2.0
"""Released VideoVLA weights, in the key names of SwissArmyTransformer, to a model folder of this package."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from flashwam.data.actions import ActionNorm
from flashwam.data.latents import ACTION_NORM
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.lfs import refuse_pointer
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import load_tensors
from flashwam.wam.cogvideox.action import ActionModule
from flashwam.wam.cogvideox.checkpoint import place
from flashwam.wam.cogvideox.config import CogVideoXConfig
from flashwam.wam.cogvideox.wam import CogVideoX

__all__ = ["convert_videovla"]

_PREFIX = "model.diffusion_model."
# Beside the network in a whole checkpoint: autoencoder and text encoder, which are read from CogVideoX.
_OTHER_PARTS = ("first_stage_model.", "conditioner.")
_UNUSED = re.compile(r"transformer\.(position|word)_embeddings\.weight|mixins\.pos_embed\.freqs_(sin|cos)")
_LISTED = 20

_NETWORK = {
    "mixins.patch_embed.proj": "patch_embed.proj",
    "mixins.patch_embed.text_proj": "patch_embed.text_proj",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "transformer.final_layernorm": "norm_final",
    "mixins.final_layer.norm_final": "norm_out.norm",
    "mixins.final_layer.adaLN_modulation.1": "norm_out.linear",
    "mixins.final_layer.linear": "proj_out",
}
_ACTION = {
    "mixins.patch_embed.action_proj": "proj_in",
    "mixins.final_layer.action_norm_final": "norm_out.norm",
    "mixins.final_layer.action_adaLN_modulation.1": "norm_out.linear",
    "mixins.final_layer.action_linear": "proj_out",
}
_LAYER = {
    "transformer.layers.{i}.attention.query_key_value": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "transformer.layers.{i}.attention.dense": ("attn1.to_out.0",),
    "transformer.layers.{i}.input_layernorm": ("norm1.norm",),
    "transformer.layers.{i}.post_attention_layernorm": ("norm2.norm",),
    "transformer.layers.{i}.mlp.dense_h_to_4h": ("ff.net.0.proj",),
    "transformer.layers.{i}.mlp.dense_4h_to_h": ("ff.net.2",),
    "mixins.adaln_layer.query_layernorm_list.{i}": ("attn1.norm_q",),
    "mixins.adaln_layer.key_layernorm_list.{i}": ("attn1.norm_k",),
    "mixins.adaln_layer.adaLN_modulations.{i}.1": ("norm1.linear", "norm2.linear"),
}
_POSITIONS = "mixins.pos_embed.pos_embedding"
_ACTION_POSITIONS = "mixins.pos_embed.action_pos_embedding"
_ROBOTS = "mixins.pos_embed.action_robotid_embedding.weight"
# VideoVLA's modulation: shift, scale, gate of video before attention and before the feed-forward, then of text.
_MODULATION = {"norm1.linear": (0, 1, 2, 6, 7, 8), "norm2.linear": (3, 4, 5, 9, 10, 11)}


def convert_videovla(
    source: str | Path,
    target: str | Path,
    *,
    latent_size: tuple[int, int] = (32, 32),
    chunk_frames: int = 13,
    actions_per_frame: int = 1,
    execute_frames: int | None = 3,
    robot: int = 1,
    dtype: torch.dtype | None = None,
    actions: ActionNorm | None = None,
) -> CogVideoXConfig:
    """Writes a VideoVLA checkpoint as a folder that `CogVideoX.from_pretrained` reads.

    Widths, layers, heads, channels, text length, actions and robots are the tensors' own. How many actions lie between
    two latent frames is not public: one is assumed, of which the first six slots are drawn.

    Args:
        source: A ``.pt`` file (read without running code from it) or a safetensors file.
        target: The folder to write.
        latent_size: Rows and columns it was trained at.
        chunk_frames: Latent frames it was trained at, the observed one included.
        actions_per_frame: See `CogVideoXConfig`.
        execute_frames: See `CogVideoXConfig`.
        robot: See `CogVideoXConfig`.
        dtype: Of the parameters written; the file's own if None.
        actions: How the robot's controls were normalised, which no file of the release says; kept beside the model.

    Returns:
        What was written to ``wam.json``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Keys match nothing, are missing or misshapen, listed; or the sizes do not fit the table of
            positions.
    """
    weights = _read(user_path(source))
    layers = _check_keys(weights, source)
    config, options = _sizes(weights, layers, latent_size=latent_size, chunk_frames=chunk_frames)
    config = CogVideoXConfig(
        latent_size=latent_size,
        chunk_frames=chunk_frames,
        actions_per_frame=actions_per_frame,
        execute_frames=execute_frames,
        robot=robot,
        norm_out_eps=1e-6,
        **config,
    )
    if actions is not None and actions.channels != config.action_dim:
        raise InputError(f"{source} has {config.action_dim} action channels; got quantiles of {actions.channels}")
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(**options)
        action = ActionModule(
            action_dim=config.action_dim,
            tokens=config.action_tokens,
            width=options["num_attention_heads"] * options["attention_head_dim"],
            time_dim=options["time_embed_dim"],
            robots=config.robots,
        )
    for module, renamed in ((transformer, _network(weights, layers)), (action, _action(weights))):
        _check_shapes(module, renamed, source)
        module.load_state_dict(renamed, strict=True, assign=True)
        place(module, device="cpu", dtype=dtype)
    CogVideoX(transformer, action, config).save_pretrained(target)
    if actions is not None:
        write_whole(user_path(target) / ACTION_NORM, json.dumps(actions.to_dict(), indent=2) + "\n")
    return config


def _read(path: Path) -> dict[str, Tensor]:
    """The network's tensors by their keys without the prefix."""
    if not path.is_file():
        told = "is a folder" if path.is_dir() else "no such file"
        raise MissingFileError(f"{path}: {told}; expected VideoVLA's checkpoint, a .pt or .safetensors file")
    refuse_pointer(path)
    if path.suffix == ".safetensors":
        content: Any = load_tensors(path)
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise InputError(f"{path} is no checkpoint that torch reads without running code: {reason}") from error
    for wrapper in ("module", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} must hold a mapping from keys to tensors")
    return {key.removeprefix(_PREFIX): value for key, value in content.items() if not key.startswith(_OTHER_PARTS)}


def _stems(layers: int) -> list[str]:
    return [*_NETWORK, *_ACTION, *(stem.format(i=i) for i in range(layers) for stem in _LAYER)]


def _check_keys(weights: Mapping[str, Tensor], source: str | Path) -> int:
    """The number of layers.

    Raises:
        ValueError: Keys are missing or match nothing.
    """
    numbers = [re.match(r"transformer\.layers\.(\d+)\.", key) for key in weights]
    layers = 1 + max((int(match[1]) for match in numbers if match), default=0)
    expected = {f"{stem}.{kind}" for stem in _stems(layers) for kind in ("weight", "bias")}
    expected |= {_POSITIONS, _ACTION_POSITIONS, _ROBOTS}
    problems = [f"unexpected {key}" for key in sorted(set(weights) - expected) if not _UNUSED.fullmatch(key)]
    problems += [f"missing {key}" for key in sorted(expected - set(weights))]
    if problems:
        raise _misfit(source, problems)
    return layers


def _check_shapes(module: torch.nn.Module, renamed: Mapping[str, Tensor], source: str | Path) -> None:
    """Compares with what the sizes that were read say."""
    problems = [
        f"misshapen {key}: expected {tuple(value.shape)}, got {tuple(renamed[key].shape)}"
        for key, value in module.state_dict().items()
        if renamed[key].shape != value.shape
    ]
    if problems:
        raise _misfit(source, problems)


def _misfit(source: str | Path, problems: list[str]) -> ValueError:
    listed = "\n  ".join(problems[:_LISTED])
    rest = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return InputError(f"{source} is no VideoVLA network ({len(problems)} keys):\n  {listed}{rest}")


def _sizes(
    weights: Mapping[str, Tensor], layers: int, *, latent_size: tuple[int, int], chunk_frames: int
) -> tuple[dict[str, int], dict[str, Any]]:
    """(fields of the configuration, keywords of the transformer) that the tensors tell."""
    width, channels, patch, _ = weights["mixins.patch_embed.proj.weight"].shape
    head_dim = len(weights["mixins.adaln_layer.query_layernorm_list.0.weight"])
    tokens = chunk_frames * (latent_size[0] // patch) * (latent_size[1] // patch)
    table = weights[_POSITIONS].shape[1]
    seen = weights.get("mixins.pos_embed.freqs_cos")
    if table <= tokens or (seen is not None and len(seen) != tokens):
        known = f" and {len(seen)} rotated ones" if seen is not None else ""
        raise InputError(
            f"the table of positions has {table} entries for text and video{known}, but chunk_frames {chunk_frames} "
            f"and latent_size {tuple(latent_size)} make {tokens} video tokens: give those it was trained at"
        )
    config = {
        "action_dim": len(weights["mixins.final_layer.action_linear.weight"]),
        "action_tokens": weights[_ACTION_POSITIONS].shape[1],
        "robots": len(weights[_ROBOTS]),
    }
    options = {
        "num_attention_heads": width // head_dim,
        "attention_head_dim": head_dim,
        "in_channels": channels,
        "out_channels": len(weights["mixins.final_layer.linear.weight"]) // patch**2,
        "time_embed_dim": len(weights["time_embed.0.weight"]),
        "text_embed_dim": weights["mixins.patch_embed.text_proj.weight"].shape[1],
        "num_layers": layers,
        "sample_height": latent_size[0],
        "sample_width": latent_size[1],
        "sample_frames": (chunk_frames - 1) * 4 + 1,
        "patch_size": patch,
        "max_text_seq_length": table - tokens,
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
    }
    return config, options


def _network(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The transformer's tensors by diffusers' keys."""
    renamed = {"patch_embed.pos_embedding": weights[_POSITIONS]}
    for kind in ("weight", "bias"):
        renamed |= {f"{new}.{kind}": weights[f"{old}.{kind}"] for old, new in _NETWORK.items()}
        for i in range(layers):
            for stem, names in _LAYER.items():
                value = weights[f"{stem.format(i=i)}.{kind}"]
                for name, part in _parts(value, names).items():
                    renamed[f"transformer_blocks.{i}.{name}.{kind}"] = part
    return renamed


def _parts(value: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """A tensor under its names: whole, its rows in equal parts, or the modulation's chunks in diffusers' order."""
    if names == tuple(_MODULATION):
        chunks = value.chunk(12)
        return {name: torch.cat([chunks[c] for c in order]) for name, order in _MODULATION.items()}
    if len(names) == 1:
        return {names[0]: value}
    # Copies, since parts of one storage cannot be saved side by side.
    return {name: part.clone() for name, part in zip(names, value.chunk(len(names)), strict=True)}


def _action(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The action module's tensors by its keys."""
    renamed = {f"{new}.{kind}": weights[f"{old}.{kind}"] for old, new in _ACTION.items() for kind in ("weight", "bias")}
    return {**renamed, "positions": weights[_ACTION_POSITIONS], "robot.weight": weights[_ROBOTS]}
