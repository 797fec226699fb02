# SPDX-License-Identifier: Apache-2.0
"""Finds a transformer in the folders it is published in, and reads it strictly: every key, no key more, every shape."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.json_file import built_from
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import fitting
from flashwam.wam.keys import Keys, match_keys
from flashwam.wam.lingbot_va.transformer import WanTransformer3DModel
from flashwam.wam.wam_file import WAM_FILE
from flashwam.wam.weights import read_config, weight_files

__all__ = [
    "PARTS",
    "ROLES",
    "TransformerSource",
    "find_transformer",
    "load_transformer",
    "network_config",
    "transformer_keys",
]

PARTS = ("vae", "text_encoder", "tokenizer")
"""Folders of a complete checkpoint beside ``transformer/``."""
ROLES = ("online_student", "target_student")
"""Folders of a step of the Flash-WAM release; its own evaluation takes the first."""

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_LEROBOT_WEIGHTS, _LEROBOT_TYPE, _LEROBOT_PREFIX = "model.safetensors", "lingbot_va", "transformer."
_IGNORED = tuple(WanTransformer3DModel._keys_to_ignore_on_load_unexpected)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSource:
    """A transformer on disk.

    Args:
        layout: "flashwam" (with ``wam.json``), "released" (with ``vae/``, ``text_encoder/`` and ``tokenizer/``),
            "fine-tune" (``transformer/`` without all of these), "transformer" (that folder itself), "flash-wam" (a
            step of the Flash-WAM release) or "lerobot".
        root: The checkpoint's folder: what is beside the transformer is here.
        folder: Holds the transformer's configuration and weights.
        config: Keyword arguments of the transformer.
        origin: What else the configuration file says.
        weights: Name of the weights' file, if there is one alone.
        prefix: Of its keys.
    """

    layout: str
    root: Path
    folder: Path
    config: Mapping[str, Any]
    origin: Mapping[str, Any]
    weights: str = _WEIGHTS
    prefix: str = ""

    @property
    def files(self) -> list[Path]:
        """Its safetensors files."""
        return weight_files(self.folder, self.weights)


def find_transformer(path: str | Path, *, role: str | None = None) -> TransformerSource:
    """Recognises how a LingBot-VA transformer is laid out on disk.

    Args:
        path: A released checkpoint, a fine-tune, a student of flashwam, ``transformer/`` itself, a step of the
            Flash-WAM release or one of its two students, or LeRobot's conversion.
        role: Which student of a step of the Flash-WAM release; ``online_student``, which its authors evaluate, if
            None.

    Raises:
        FileNotFoundError: There is no such folder, or no transformer in it.
        ValueError: The configuration is another model's.
    """
    path = user_path(path)
    if role is not None and role not in ROLES:
        raise InputError(f"role must be one of {ROLES}, got {role!r}")
    if not path.is_dir():
        raise MissingFileError(
            f"{path}: no such folder. A checkpoint of a hub is downloaded first: "
            "hf download OWNER/NAME --local-dir FOLDER"
        )
    students = [name for name in ROLES if (path / name / "transformer").is_dir()]
    if students:
        chosen = role or students[0]
        if chosen not in students:
            raise MissingFileError(f"{path} holds {students}, not {chosen}")
        return _diffusers(path / chosen, "flash-wam")
    if role is not None:
        raise InputError(f"role {role!r} was given, but {path} is no step of the Flash-WAM release")
    if (path / "transformer").is_dir():
        if (path / WAM_FILE).is_file():
            return _diffusers(path, "flashwam")
        if path.name in ROLES:
            return _diffusers(path, "flash-wam")
        complete = all((path / part).is_dir() for part in PARTS)
        return _diffusers(path, "released" if complete else "fine-tune")
    for folder in (path, path / "pretrained_model"):
        config = folder / "config.json"
        if config.is_file() and read_config(config, weights=_WEIGHTS).get("type") is not None:
            return _lerobot(folder)
    if (path / "config.json").is_file():
        return _source(path, "transformer", root=path)
    steps = sorted(child.name for child in path.iterdir() if child.name.startswith(("step_", "checkpoint_step_")))
    held = f"; it holds {', '.join(steps[-5:])}: give one of them" if steps else ""
    raise MissingFileError(
        f"{path} holds no LingBot-VA transformer: expected transformer/config.json, one of {ROLES}, a LeRobot policy "
        f"(config.json and {_LEROBOT_WEIGHTS}), or config.json and {_WEIGHTS} themselves{held}"
    )


def network_config(source: TransformerSource) -> dict[str, Any]:
    """Every keyword of the transformer: what the file says, the defaults elsewhere."""
    parameters = inspect.signature(WanTransformer3DModel.__init__).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    return {**defaults, **source.config}


def load_transformer(
    path: str | Path,
    *,
    role: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> WanTransformer3DModel:
    """Loads a transformer from any layout `find_transformer` knows.

    Args:
        path: See `find_transformer`.
        role: See `find_transformer`.
        dtype: Dtype of the parameters; that of the files by default.
        device: Where they go.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: A file is absent.
        ValueError: Keys are missing, unexpected or misshapen; the message lists them.
    """
    source = find_transformer(path, role=role)
    model, keys = _matched(source)
    keys.check(source.folder)
    weights: dict[str, Tensor] = {}
    for file_path, held in keys.files():
        with safe_open(file_path, framework="pt", device=str(device)) as file:
            for key, stored in held:
                # A copy: views of the file are not aligned as fresh tensors are, and products would differ in bits.
                weights[key] = file.get_tensor(stored).to(dtype, copy=True)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def transformer_keys(source: TransformerSource) -> Keys:
    """Compares a transformer's files with what its configuration asks for, by their headers.

    Raises:
        FileNotFoundError: A file is absent.
        ValueError: One is damaged.
    """
    return _matched(source)[1]


def _matched(source: TransformerSource) -> tuple[WanTransformer3DModel, Keys]:
    files = source.files
    with fitting(files), torch.device("meta"):
        model = built_from(source.folder / "config.json", lambda: WanTransformer3DModel(**source.config))
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    keys = match_keys(expected, files, prefix=source.prefix, ignored=lambda key: any(part in key for part in _IGNORED))
    return model, keys


def _diffusers(root: Path, layout: str) -> TransformerSource:
    return _source(root / "transformer", layout, root=root)


def _source(folder: Path, layout: str, *, root: Path) -> TransformerSource:
    content = read_config(folder / "config.json", weights=_WEIGHTS)
    expected = WanTransformer3DModel.__name__
    if content.get("_class_name") != expected:
        raise InputError(f"{folder / 'config.json'} must describe a {expected}, got {content.get('_class_name')!r}")
    return TransformerSource(layout=layout, root=root, folder=folder, **_parts(content))


def _lerobot(folder: Path) -> TransformerSource:
    content = read_config(folder / "config.json", weights=_WEIGHTS)
    if content.get("type") != _LEROBOT_TYPE:
        raise InputError(f"{folder / 'config.json'} must be of type {_LEROBOT_TYPE!r}, got {content.get('type')!r}")
    return TransformerSource(
        layout="lerobot",
        root=folder,
        folder=folder,
        weights=_LEROBOT_WEIGHTS,
        prefix=_LEROBOT_PREFIX,
        **_parts(content),
    )


def _parts(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configuration's fields that the transformer takes, and the rest."""
    known = set(inspect.signature(WanTransformer3DModel.__init__).parameters) - {"self"}
    return {
        "config": {key: value for key, value in content.items() if key in known},
        "origin": {key: value for key, value in content.items() if key not in known},
    }
