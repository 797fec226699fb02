# SPDX-License-Identifier: Apache-2.0
"""Strict reading of a transformer folder: every key there, no key more, every shape right."""

import json
import logging
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from flashwam.wam.lingbot_va.transformer import WanTransformer3DModel

__all__ = ["load_transformer"]

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_IGNORED = tuple(WanTransformer3DModel._keys_to_ignore_on_load_unexpected)
_LISTED = 20

logger = logging.getLogger(__name__)


def load_transformer(
    folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> WanTransformer3DModel:
    """Load a transformer as the original or `save_pretrained` wrote it.

    Args:
        folder: Holds ``config.json`` and one or several safetensors files.
        dtype: Dtype of the parameters; that of the files by default.
        device: Where they go.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: A file is absent.
        ValueError: Keys are missing, unexpected or misshapen; the message lists them.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise FileNotFoundError(f"{config_path} is missing: expected a folder with config.json and {_WEIGHTS}")
    config = json.loads(config_path.read_text())
    name = config.get("_class_name")
    if name != WanTransformer3DModel.__name__:
        raise ValueError(f"{config_path} must describe a {WanTransformer3DModel.__name__}, got {name!r}")
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)

    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    weights: dict[str, Tensor] = {}
    problems = []
    for path in _weight_files(folder):
        with safe_open(path, framework="pt", device=str(device)) as file:
            for key in sorted(file.keys()):
                shape = tuple(file.get_slice(key).get_shape())
                if key not in expected:
                    if any(part in key for part in _IGNORED):
                        logger.info("ignored %s of %s", key, path)
                    else:
                        problems.append(f"unexpected {key} {shape}")
                elif shape != expected[key]:
                    problems.append(f"misshapen {key}: expected {expected[key]}, got {shape}")
                    weights[key] = torch.empty(0)
                else:
                    # A copy: views of the file are not aligned as fresh tensors are, and products would differ in bits.
                    weights[key] = file.get_tensor(key).to(dtype, copy=True)
    problems += [f"missing {key} {shape}" for key, shape in expected.items() if key not in weights]
    if problems:
        listed = "\n  ".join(problems[:_LISTED])
        rest = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ValueError(
            f"{folder} does not fit its config.json ({len(problems)} keys):\n  {listed}{rest}\n"
            "Take the config.json and the weights from the same checkpoint."
        )
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, by its index where it is sharded."""
    single, index = folder / _WEIGHTS, folder / f"{_WEIGHTS}.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [folder / name for name in names]
    else:
        files = [single]
    absent = [str(path) for path in files if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"weights are missing: {', '.join(absent)}")
    return files
