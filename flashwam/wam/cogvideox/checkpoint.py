# SPDX-License-Identifier: Apache-2.0
"""Finds CogVideoX transformers in the folders they are published in, and reads modules strictly."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.modeling_utils import ModelMixin

from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.json_file import built_from
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import fitting
from flashwam.wam.cogvideox.presets import SNR_SHIFTS, check_version, network_name
from flashwam.wam.keys import Keys, match_keys
from flashwam.wam.wam_file import WAM_FILE
from flashwam.wam.weights import read_config, weight_files

__all__ = [
    "PARTS",
    "TransformerSource",
    "find_transformer",
    "load_module",
    "module_keys",
    "network_config",
    "place",
    "training_noise",
]

PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")
"""Folders of a complete checkpoint beside ``transformer/``."""
WEIGHTS = "diffusion_pytorch_model.safetensors"

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_Module = TypeVar("_Module", bound=ModelMixin)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSource:
    """A CogVideoX transformer on disk.

    Args:
        layout: "flashwam" (with ``wam.json``), "released" (with ``vae/``, ``text_encoder/``, ``tokenizer/`` and
            ``scheduler/``), "fine-tune" (``transformer/`` without all of these) or "transformer" (that folder itself).
        root: The checkpoint's folder.
        folder: Holds the transformer's configuration and weights.
        origin: The configuration file.
    """

    layout: str
    root: Path
    folder: Path
    origin: Mapping[str, Any]

    @property
    def files(self) -> list[Path]:
        """Its safetensors files."""
        return weight_files(self.folder, WEIGHTS)

    @property
    def action(self) -> Path | None:
        """The folder of its action module, if it has one."""
        folder = self.root / "action"
        return folder if self.layout == "flashwam" and (folder / "config.json").is_file() else None


def find_transformer(path: str | Path) -> TransformerSource:
    """Recognises how a CogVideoX transformer is laid out on disk.

    Args:
        path: A released checkpoint, a fine-tune, what `CogVideoX.save_pretrained` wrote, or ``transformer/`` itself.

    Raises:
        FileNotFoundError: There is no such folder, or no CogVideoX transformer in it.
        ValueError: The configuration is no JSON, or CogVideoX 1.5's.
    """
    path = user_path(path)
    if not path.is_dir():
        raise MissingFileError(
            f"{path}: no such folder. A checkpoint of a hub is downloaded first: "
            "hf download OWNER/NAME --local-dir FOLDER"
        )
    layout, folder = "transformer", path
    if (path / "transformer").is_dir():
        folder = path / "transformer"
        complete = all((path / part).is_dir() for part in PARTS)
        layout = "flashwam" if (path / WAM_FILE).is_file() else "released" if complete else "fine-tune"
    file = folder / "config.json"
    content = read_config(file, weights=WEIGHTS) if file.is_file() else {}
    expected = CogVideoXTransformer3DModel.__name__
    if content.get("_class_name") != expected:
        got = f"describes a {content.get('_class_name')}" if content else "is missing"
        raise MissingFileError(f"{path} holds no {expected}: {file} {got}")
    try:
        check_version(content)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    return TransformerSource(layout=layout, root=path, folder=folder, origin=content)


def network_config(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Every keyword of the transformer: what the file says, the defaults elsewhere."""
    parameters = inspect.signature(CogVideoXTransformer3DModel.__init__).parameters
    return {name: origin.get(name, given.default) for name, given in parameters.items() if name != "self"}


def training_noise(source: TransformerSource) -> dict[str, float]:
    """`CogVideoXConfig`'s fields of the noise that are known.

    They are those of ``scheduler/`` beside the transformer; without it, the shift of the released network of that size.

    Raises:
        ValueError: It is no zero-terminal-SNR v-prediction.
    """
    path = source.root / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        size = network_name(network_config(source.origin))
        return {} if size is None else {"snr_shift": SNR_SHIFTS[size]}
    content = read_config(path, weights=WEIGHTS)
    expected = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    wrong = {key: content.get(key) for key, value in expected.items() if content.get(key) != value}
    if wrong:
        raise InputError(f"{path} must say {expected}, got {wrong}: it is not how CogVideoX was trained")
    names = {"snr_shift": "snr_shift_scale", "beta_start": "beta_start", "beta_end": "beta_end"}
    return {own: float(content[name]) for own, name in names.items() if name in content}


def load_module(
    kind: type[_Module],
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    leave: Sequence[str] = (),
    **changes: Any,
) -> _Module:
    """Loads a module of diffusers' layout by its own `from_pretrained`, having compared every key first.

    Args:
        kind: Its class.
        folder: Holds ``config.json`` and the weights.
        dtype: Of the parameters; that of the files if None.
        device: Where it goes.
        leave: Keys of the files that are not wanted.
        changes: Keywords that replace the configuration's.

    Returns:
        The module, in evaluation mode.

    Raises:
        FileNotFoundError: A file is absent.
        ValueError: Keys are missing, unexpected, misshapen or given twice; the message lists them.
    """
    keys, settings = _matched(kind, folder, leave, changes)
    keys.check(folder)
    if dtype is None and len(keys.dtypes) == 1:
        dtype = _DTYPES.get(next(iter(keys.dtypes)))
    if keys.wrapped:
        module = place(keys.fill(kind.from_config(settings)), device="cpu", dtype=dtype)
    else:
        module = kind.from_pretrained(folder, torch_dtype=dtype or torch.float32, use_safetensors=True, **changes)
    # A copy: views of the file are not aligned as fresh tensors are, and products would differ in bits.
    return place(module, device=device).eval()


def module_keys(kind: type[ModelMixin], folder: Path, *, leave: Sequence[str] = ()) -> Keys:
    """Compares a module's files with what its configuration asks for, by their headers.

    Raises:
        FileNotFoundError: A file is absent.
        ValueError: One is damaged.
    """
    return _matched(kind, folder, leave, {})[0]


def _matched(
    kind: type[ModelMixin], folder: Path, leave: Sequence[str], changes: Mapping[str, Any]
) -> tuple[Keys, dict[str, Any]]:
    settings = {**read_config(folder / "config.json", weights=WEIGHTS), **changes}
    files = weight_files(folder, WEIGHTS)
    with fitting(files), torch.device("meta"):
        skeleton = built_from(folder / "config.json", lambda: kind.from_config(settings))
    expected = {key: tuple(value.shape) for key, value in skeleton.state_dict().items()}
    return match_keys(expected, files, ignored=lambda key: key in leave), settings


def place(module: _Module, *, device: torch.device | str, dtype: torch.dtype | None = None) -> _Module:
    """Puts fresh copies of a module's tensors on a device; `ModelMixin.to` warns of every dtype it is given."""
    for value in (*module.parameters(), *module.buffers()):
        value.data = value.data.to(device, dtype, copy=True)
    return module
