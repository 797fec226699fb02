# SPDX-License-Identifier: Apache-2.0
"""Video autoencoders of released checkpoints, loaded strictly by diffusers' own classes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.json_file import built_from, read_mapping
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import fitting
from flashwam.wam.keys import match_keys
from flashwam.wam.soundness import PART_WEIGHTS
from flashwam.wam.weights import weight_files

__all__ = ["load_autoencoder"]


def load_autoencoder(
    kind: Any, folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Any:
    """Loads ``vae/`` of a checkpoint.

    Args:
        kind: diffusers' class.
        folder: Holds config.json and safetensors files, as released.
        dtype: Of the parameters; that of the files if None.
        device: Where they go.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds another model, or keys do not fit.
    """
    folder = user_path(folder)
    if not (folder / "config.json").is_file():
        raise MissingFileError(
            f"{folder / 'config.json'} is missing: expected vae/ of a released checkpoint. A fine-tune that ships "
            "only transformer/ needs the base checkpoint's"
        )
    name = read_mapping(folder / "config.json").get("_class_name")
    if name != kind.__name__:
        raise InputError(f"{folder} must hold an {kind.__name__}, got {name!r}")
    # diffusers says neither that a file is a pointer nor from inside of what the weights were saved.
    path, files = folder / "config.json", weight_files(folder, PART_WEIGHTS["vae"])
    content = read_mapping(path)
    with fitting(files), torch.device("meta"):
        skeleton = built_from(path, lambda: kind.from_config(content))
    keys = match_keys({key: tuple(value.shape) for key, value in skeleton.state_dict().items()}, files)
    keys.check(folder)
    if keys.wrapped:
        # By torch's own method: diffusers' warns of modules to be kept in float32, also of a class that has none.
        return nn.Module.to(keys.fill(kind.from_config(content)), device, dtype).eval()
    options: dict[str, Any] = {} if dtype is None else {"torch_dtype": dtype}
    options |= {"output_loading_info": True, "local_files_only": True, "use_safetensors": True}
    model, problems = built_from(path, lambda: kind.from_pretrained(folder, **options))
    wrong = {what: keys for what, keys in problems.items() if keys}
    if wrong:
        raise InputError(f"the weights of {folder} do not fit its config.json: {wrong}")
    return model.to(device)
