# SPDX-License-Identifier: Apache-2.0
"""The size of a model, without memory for its weights, and of what a training pass keeps for its backward pass."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from flashwam.data.hashed_text import TEXT_LENGTH, TEXT_WIDTH
from flashwam.recipe.sections import Recipe
from flashwam.system.errors import InputError
from flashwam.system.imports import trusting
from flashwam.wam import family, load
from flashwam.wam.agreement import check_family
from flashwam.wam.base import WorldActionModel
from flashwam.wam.files import files_of

__all__ = [
    "ModelSize",
    "activation_bytes",
    "activation_formula",
    "adapter_parameters",
    "meta_model",
    "model_size",
    "text_shape",
]

# Of the hashed words, and of the released data sets.
_HASHED, _RELEASED = (TEXT_LENGTH, TEXT_WIDTH), (512, None)
# Bytes that one block keeps for its backward pass per token and unit of width, per token and unit of inner width, and
# per text token and unit of width: read off the saved tensors of a block, once in float32, once under bf16 autocast,
# where the residual stream's norms stay in float32.
_KEPT_FLOAT = (96, 8, 16)
_KEPT_HALF = (78, 4, 12)
# The first two of a block that text goes through beside the other tokens, as they do: it attends to nothing else.
_JOINT_FLOAT = (68, 8)
_JOINT_HALF = (46, 4)

_FORMULA = (
    "samples x blocks x (tokens x ({} width + {} inner) + text x {} width) bytes in bf16, {} {} {} in float32; with "
    "checkpointing samples x (blocks x tokens x width x 2, or 4, bytes + one block in full)"
).format(*_KEPT_HALF, *_KEPT_FLOAT)
_JOINT_FORMULA = (
    "samples x blocks x (tokens + text) x ({} width + {} inner) bytes in bf16, {} {} in float32; with checkpointing "
    "samples x (blocks x (tokens x 4 + text x 2, or 4) x width bytes + one block in full)"
).format(*_JOINT_HALF, *_JOINT_FLOAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Numbers of one model.

    Args:
        parameters: All of them.
        layers: Blocks of the trunk: the module list with the most parameters.
        block: Parameters of one block.
        width: Width of the tokens: what most linear layers of a block take in.
        inner: Widest thing that a linear layer of a block gives out of tokens; what is fed by something else, such as
            the noise level, gives it out once a sample.
        joint: Whether text goes through the blocks beside the other tokens, see `WorldActionModel.text_in_blocks`.
    """

    parameters: int
    layers: int
    block: int
    width: int
    inner: int
    joint: bool = False

    @property
    def blocks(self) -> int:
        """Parameters of all blocks."""
        return self.layers * self.block

    @property
    def unit(self) -> int:
        """Parameters of the largest part that FSDP gathers at once: a block, or everything outside the blocks."""
        return max(self.block, self.parameters - self.blocks)


def meta_model(recipe: Recipe, *, trust: bool = False) -> WorldActionModel:
    """The recipe's model on the meta device; one that only a folder describes is loaded.

    Args:
        recipe: The recipe.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        ValueError: the recipe has neither a config nor a folder, or the folder is there and its family refuses it.
    """
    folder = recipe.train_from if recipe.distill is None else recipe.wam.pretrained or recipe.train_from
    files = files_of(recipe.wam.family)
    if files is not None and folder is not None and Path(folder).is_dir():
        # Planning reads no weights, which may be many gigabytes; what they are of must be usable.
        with suppress(FileNotFoundError):
            files.check(Path(folder))
    if folder is not None and recipe.wam.config:
        check_family(folder, recipe.wam.family, trust=trust)
    if recipe.wam.config:
        with torch.device("meta"):
            return family(recipe.wam.family).create(**recipe.wam.config)
    if folder is None:
        raise InputError("wam: needs `config` (the model's size) or `pretrained` (a folder)")
    with trusting(trust, named=[recipe.wam.family]):
        return load(folder)


def text_shape(recipe: Recipe, model: WorldActionModel) -> tuple[int, int | None]:
    """(L, D) of a sample's text: what the model is made for, and where it does not say, what the data have."""
    length, width = _HASHED if recipe.data.simulated else _RELEASED
    return model.text_shape[0] or length, model.text_shape[1] or width


def model_size(model: nn.Module) -> ModelSize:
    """Counts a model; one without a module list is a single block."""
    total = _count(model)
    block, layers = _trunk(model)
    linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise InputError(f"{type(model).__name__} has no linear layer in its blocks; its memory cannot be planned")
    width = Counter(linear.in_features for linear in linears).most_common(1)[0][0]
    inner = max(linear.out_features for linear in linears if linear.in_features == width)
    owners = [module for module in model.modules() if getattr(module, "text_in_blocks", False)]
    joint = any(part is block for owner in owners for part in owner.modules())
    return ModelSize(parameters=total, layers=layers, block=_count(block), width=width, inner=inner, joint=joint)


def adapter_parameters(model: nn.Module, rank: int, targets: tuple[str, ...] | None = None) -> int:
    """Parameters of low-rank adapters, rank (in + out) per linear layer.

    Args:
        model: Where they go.
        rank: Their rank.
        targets: Ends of the layers' names; every linear layer of the blocks by default.
    """
    block, layers = _trunk(model)
    if targets is None:
        found = [m for m in block.modules() if isinstance(m, nn.Linear)] * layers
    else:
        named = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
        found = [m for name, m in named if any(f".{name}".endswith(f".{end}") for end in targets)]
    return sum(rank * (linear.in_features + linear.out_features) for linear in found)


def activation_bytes(
    size: ModelSize, *, tokens: int, text_tokens: int, samples: int, half: bool, checkpointing: bool
) -> int:
    """Bytes kept between the student's forward and backward pass, see `activation_formula`; an estimate.

    Args:
        size: The model.
        tokens: Tokens of one sample's pass.
        text_tokens: Text tokens of one sample.
        samples: Samples in the pass.
        half: Under bf16 autocast or with bf16 weights.
        checkpointing: Blocks keep their input alone and are computed again in the backward pass.
    """
    per_width, per_inner, per_text = _KEPT_HALF if half else _KEPT_FLOAT
    number = 2 if half else 4
    # Under autocast the video's residual stream stays in float32 in a joint block; the text's is rounded.
    passing = tokens * 4 + text_tokens * number if size.joint else tokens * number
    if size.joint:
        per_width, per_inner = _JOINT_HALF if half else _JOINT_FLOAT
        tokens, text_tokens = tokens + text_tokens, 0
    block = tokens * (per_width * size.width + per_inner * size.inner) + text_tokens * per_text * size.width
    return samples * (size.layers * passing * size.width + block if checkpointing else size.layers * block)


def activation_formula(size: ModelSize) -> str:
    """The sum that `activation_bytes` does, in words."""
    return _JOINT_FORMULA if size.joint else _FORMULA


def _trunk(model: nn.Module) -> tuple[nn.Module, int]:
    """A block of the model's trunk, and how many there are."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        return model, 1
    trunk = max(lists, key=_count)
    return trunk[0], len(trunk)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
