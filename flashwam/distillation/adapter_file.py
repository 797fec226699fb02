# SPDX-License-Identifier: Apache-2.0
"""`adapter.safetensors` beside an exported model: its adapter apart from the weights it was added to.

A next stage of training goes on from it; what samples the model has no use for it.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from flashwam.data.fingerprint import tensors_fingerprint
from flashwam.recipe.sections import LoraConfig
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import load_tensors, read_header, write_tensors

__all__ = ["ADAPTER_FILE", "adapter_fingerprint", "fingerprint", "load_adapter", "save_adapter"]

ADAPTER_FILE = "adapter.safetensors"


def fingerprint(weights: Mapping[str, Tensor], *, rounded: bool = True) -> str:
    """Tells one backbone from another by the bytes of some of its weights.

    Args:
        weights: Of the backbone.
        rounded: To bf16, in which a backbone is the same at every precision of a training; as they are otherwise, as
            earlier versions noted it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(weights.items()):
        digest.update(name.encode())
        weight = weight.detach().to(torch.bfloat16) if rounded else weight.detach()
        digest.update(weight.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def adapter_fingerprint(folder: Path | str) -> str:
    """Tells one saved adapter from another by its own numbers.

    Args:
        folder: A model exported from a training with adapters.

    Raises:
        FileNotFoundError: The folder holds no adapter.
        ValueError: It is damaged.
    """
    return tensors_fingerprint(load_tensors(_adapter_path(folder)))


def save_adapter(folder: Path | str, parameters: Mapping[str, Tensor], lora: LoraConfig, *, backbone: str) -> None:
    """Writes one adapter.

    Args:
        folder: Where to.
        parameters: A and B by layer.
        lora: What they were made with.
        backbone: `fingerprint` of the weights they belong to.
    """
    told = {"rank": str(lora.rank), "alpha": repr(float(lora.alpha)), "backbone": backbone}
    write_tensors(user_path(folder) / ADAPTER_FILE, parameters, metadata=told)


@torch.no_grad()
def load_adapter(
    folder: Path | str, parameters: Mapping[str, Tensor], lora: LoraConfig, *, backbone: Collection[str]
) -> None:
    """Fills an adapter with what `save_adapter` wrote.

    Args:
        folder: A model exported from a training with adapters.
        parameters: A and B by layer, overwritten.
        lora: What they were made with.
        backbone: `fingerprint` of the weights they belong to, in all ways that it may have been noted.

    Raises:
        FileNotFoundError: the folder holds no adapter.
        ValueError: it is one of another backbone, rank, scale or other layers.
    """
    path = _adapter_path(folder)
    read_header(path)
    with safe_open(path, framework="pt") as file:
        told = file.metadata() or {}
        if not {"rank", "alpha", "backbone"} <= set(told):
            raise InputError(f"{path} does not say its rank, alpha and backbone: it was not exported by flashwam")
        if (int(told["rank"]), float(told["alpha"])) != (lora.rank, lora.alpha):
            raise InputError(
                f"{path} has rank {told['rank']} and alpha {told['alpha']}; this recipe's lora asks for {lora.rank} "
                f"and {lora.alpha}"
            )
        names = set(file.keys())
        if names != set(parameters):
            apart = sorted(names ^ set(parameters))
            raise InputError(f"{path} adapts other layers than lora.targets: {len(apart)} differ, first {apart[:3]}")
        if told["backbone"] not in backbone:
            raise InputError(
                f"{path} was trained on another teacher than this recipe's, or by an earlier version at another "
                "precision; give that teacher's or that precision, or no init"
            )
        for name, parameter in parameters.items():
            parameter.copy_(file.get_tensor(name))


def _adapter_path(folder: Path | str) -> Path:
    path = user_path(folder) / ADAPTER_FILE
    if not path.is_file():
        raise MissingFileError(
            f"{path} is missing: with lora, init must be a student that was trained with lora from the same teacher; "
            "set lora to null to go on with a whole model"
        )
    return path
