# SPDX-License-Identifier: Apache-2.0
"""CogVideoX folders: found, read strictly, and fitted to a chunk of one's own."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from flashwam.wam.cogvideox.config import FILE_NAME, CogVideoXConfig
from flashwam.wam.weights import key_problems, read_header, weight_files

__all__ = [
    "PARTS",
    "POSITIONS",
    "TransformerSource",
    "expand_channels",
    "find_transformer",
    "fresh_positions",
    "load_module",
    "network_config",
    "table_size",
    "training_noise",
]

PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")
"""Folders of a complete checkpoint beside ``transformer/``."""
POSITIONS = "patch_embed.pos_embedding"
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
        ValueError: The configuration is no JSON.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such folder. A checkpoint of a hub is downloaded first: "
            "hf download OWNER/NAME --local-dir FOLDER"
        )
    layout, folder = "transformer", path
    if (path / "transformer").is_dir():
        folder = path / "transformer"
        complete = all((path / part).is_dir() for part in PARTS)
        layout = "flashwam" if (path / FILE_NAME).is_file() else "released" if complete else "fine-tune"
    file = folder / "config.json"
    content = _read(file) if file.is_file() else {}
    expected = CogVideoXTransformer3DModel.__name__
    if content.get("_class_name") != expected:
        got = f"describes a {content.get('_class_name')}" if content else "is missing"
        raise FileNotFoundError(f"{path} holds no {expected}: {file} {got}")
    return TransformerSource(layout=layout, root=path, folder=folder, origin=content)


def network_config(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Every keyword of the transformer: what the file says, the defaults elsewhere."""
    parameters = inspect.signature(CogVideoXTransformer3DModel.__init__).parameters
    return {name: origin.get(name, given.default) for name, given in parameters.items() if name != "self"}


def training_noise(source: TransformerSource) -> dict[str, float]:
    """`CogVideoXConfig`'s fields of the noise, as ``scheduler/`` beside the transformer has them, if it is there.

    Raises:
        ValueError: It is no zero-terminal-SNR v-prediction.
    """
    path = source.root / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return {}
    content = _read(path)
    expected = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    wrong = {key: content.get(key) for key, value in expected.items() if content.get(key) != value}
    if wrong:
        raise ValueError(f"{path} must say {expected}, got {wrong}: it is not how CogVideoX was trained")
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
    content = _read(folder / "config.json")
    with torch.device("meta"):
        skeleton = kind.from_config({**content, **changes})
    expected = {key: tuple(value.shape) for key, value in skeleton.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    dtypes: set[str] = set()
    twice: list[str] = []
    for file in weight_files(folder, WEIGHTS):
        for key, entry in read_header(file)[0].items():
            if key in leave:
                continue
            if key in found:
                twice.append(key)
            found[key] = tuple(entry["shape"])
            dtypes.add(entry["dtype"])
    key_problems(expected, found, what=folder, twice=twice)
    if dtype is None and len(dtypes) == 1:
        dtype = _DTYPES.get(dtypes.pop())
    module = kind.from_pretrained(folder, torch_dtype=dtype or torch.float32, use_safetensors=True, **changes)
    for value in (*module.parameters(), *module.buffers()):
        # A copy: views of the file are not aligned as fresh tensors are, and products would differ in bits.
        value.data = value.data.to(device, copy=True)
    return module.eval()


def table_size(config: CogVideoXConfig, network: Mapping[str, Any]) -> dict[str, int]:
    """The transformer's keywords for a table of positions of just this chunk."""
    rows, columns = config.latent_size
    frames = (config.chunk_frames - 1) * network["temporal_compression_ratio"] + 1
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
        raise ValueError(f"the input can only be widened: it has {old.in_channels} channels, asked for {channels}")
    weight = old.weight.detach()
    added = weight.new_zeros(old.out_channels, channels - old.in_channels, *old.kernel_size)
    old.weight = nn.Parameter(torch.cat([weight, added], dim=1))
    old.in_channels = channels
    transformer.register_to_config(in_channels=channels)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a folder with config.json and {WEIGHTS}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(content).__name__}")
    return content
