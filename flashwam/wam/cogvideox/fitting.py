# SPDX-License-Identifier: Apache-2.0
"""A released transformer made to fit a chunk of one's own: input channels and tables of positions."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import nn

from flashwam.system.errors import InputError
from flashwam.system.json_file import whole_number
from flashwam.wam.cogvideox.checkpoint import TransformerSource, load_module, network_config
from flashwam.wam.cogvideox.config import CogVideoXConfig

__all__ = ["FITTED", "expand_channels", "fitted_transformer", "fresh_positions", "table_size"]

FITTED = ("in_channels", "sample_frames", "sample_height", "sample_width", "use_learned_positional_embeddings")
"""Keywords of the transformer that follow weights and chunk."""
_POSITIONS = "patch_embed.pos_embedding"


def fitted_transformer(
    source: TransformerSource,
    config: CogVideoXConfig,
    *,
    asked: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> CogVideoXTransformer3DModel:
    """Loads a transformer for a chunk, see `CogVideoX.adopt`.

    Args:
        source: Where it is.
        config: The chunk.
        asked: Keywords of the transformer; all but those that are fitted must be the checkpoint's own.
        dtype: Of the parameters; that of the files if None.
        device: Where it goes.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Keys do not fit, or the network is not the one that was asked for.
    """
    own = network_config(source.origin)
    wrong = {key: value for key, value in asked.items() if key not in FITTED and own.get(key) != value}
    if wrong:
        raise InputError(
            f"{source.folder} does not hold the network that was asked for: expected {wrong}, got "
            f"{ ({key: own.get(key) for key in wrong}) }"
        )
    rotary, learned = own["use_rotary_positional_embeddings"], own["use_learned_positional_embeddings"]
    size = table_size(config, own)
    fits = learned and all(own[key] == value for key, value in size.items())
    wanted = asked.get("use_learned_positional_embeddings", fits)
    if wanted and not (rotary and config.rope_mode == "integer"):
        raise InputError(
            "a learned table of positions goes with a rotary network and rope_mode 'integer'; got "
            f"use_rotary_positional_embeddings {rotary}, {config.rope_mode!r}"
        )
    changes: dict[str, Any] = {}
    leave: tuple[str, ...] = ()
    if learned and not (fits and wanted):
        changes["use_learned_positional_embeddings"], leave = False, (_POSITIONS,)
    elif not rotary:
        # The same sines, built once instead of in every pass.
        changes |= size
    transformer = load_module(
        CogVideoXTransformer3DModel, source.folder, dtype=dtype, device=device, leave=leave, **changes
    )
    if wanted and not fits:
        fresh_positions(transformer, size)
    if config.conditioning == "channel_concat" and own["in_channels"] == own["out_channels"]:
        expand_channels(transformer, 2 * own["out_channels"])
    return transformer


def table_size(config: CogVideoXConfig, network: Mapping[str, Any]) -> dict[str, int]:
    """The transformer's keywords for a table of positions of just this chunk."""
    rows, columns = config.latent_size
    key = "temporal_compression_ratio"
    ratio = whole_number(network[key], f"{key} of the transformer's config.json", least=1, most=2**10)
    frames = (config.chunk_frames - 1) * ratio + 1
    return {"sample_height": rows, "sample_width": columns, "sample_frames": frames}


def fresh_positions(transformer: CogVideoXTransformer3DModel, size: Mapping[str, int]) -> None:
    """Gives a transformer a learned table of positions, zero to begin with.

    Args:
        transformer: Gets it, and says so in its configuration.
        size: See `table_size`.
    """
    embed, config = transformer.patch_embed, transformer.config
    for name, value in size.items():
        setattr(embed, name, value)
    embed.use_learned_positional_embeddings = True
    frames = (size["sample_frames"] - 1) // config.temporal_compression_ratio + 1
    patches = frames * (size["sample_height"] // config.patch_size) * (size["sample_width"] // config.patch_size)
    weight = embed.text_proj.weight
    zeros = weight.new_zeros(1, config.max_text_seq_length + patches, weight.shape[0])
    if hasattr(embed, "pos_embedding"):
        del embed.pos_embedding
    embed.pos_embedding = nn.Parameter(zeros)
    transformer.register_to_config(use_learned_positional_embeddings=True, **size)


def expand_channels(transformer: CogVideoXTransformer3DModel, channels: int) -> None:
    """Widens the input to `channels` with zero weights: what the new channels hold is not seen until they are trained.

    Args:
        transformer: Gets the wider layer, and says so in its configuration.
        channels: At least as many as it has.
    """
    old = transformer.patch_embed.proj
    if channels < old.in_channels:
        raise InputError(f"the input can only be widened: it has {old.in_channels} channels, asked for {channels}")
    weight = old.weight.detach()
    added = weight.new_zeros(old.out_channels, channels - old.in_channels, *old.kernel_size)
    old.weight = nn.Parameter(torch.cat([weight, added], dim=1))
    old.in_channels = channels
    transformer.register_to_config(in_channels=channels)
