# SPDX-License-Identifier: Apache-2.0
"""Text encoders of the T5 kind, the same under every version of transformers.

The released weights presume one embedding, and two ways to get another are known. transformers 5 rebuilds T5 tokenizers
from their vocabulary, without the file's normaliser; and its first versions leave the encoder's input embedding untied,
hence without weights, where the configuration says ``tie_word_embeddings: false`` as the released ones do. So a fast
tokenizer is read from its file, the weights are placed key by key, and the input embedding is tied here.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from flashwam.data.hashed_text import say_cut
from flashwam.system.errors import FailedError, InputError, MissingFileError, MissingPackageError
from flashwam.system.json_file import built_from, read_mapping, whole_number
from flashwam.system.lfs import refuse_pointer
from flashwam.system.tensor_file import fitting
from flashwam.wam.weights import key_problems, read_header, weight_files

__all__ = [
    "WEIGHTS",
    "check_dtype",
    "load_encoder",
    "load_tokenizer",
    "read_text_config",
    "token_ids",
    "tokenizer_file",
]

WEIGHTS = "model.safetensors"
_WIDEST = 2**16
_NAMES = ("shared.weight", "encoder.embed_tokens.weight")
_TOKENIZERS = ("tokenizer.json", "spiece.model")
_KINDS = {"t5": ("T5Config", "T5EncoderModel"), "umt5": ("UMT5Config", "UMT5EncoderModel")}


def check_dtype(dtype: torch.dtype) -> None:
    """Refuses a dtype in which these encoders overflow."""
    if dtype not in (torch.bfloat16, torch.float32):
        raise InputError(f"dtype must be bfloat16 or float32: encoders of the T5 kind overflow in {dtype}")


def read_text_config(folder: Path, *, kind: str) -> dict[str, Any]:
    """``config.json`` of a text encoder.

    Args:
        folder: ``text_encoder/`` of a checkpoint.
        kind: "t5" or "umt5".

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is another model's.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: expected text_encoder/ of a released checkpoint")
    values = read_mapping(path)
    whole_number(values.get("d_model"), f"{path}: d_model", least=1, most=_WIDEST)
    # Distances up to a quarter of the buckets have one each; those of further ones grow as a logarithm.
    buckets = whole_number(values.get("relative_attention_num_buckets", 32), f"{path}: relative_attention_num_buckets")
    farthest = values.get("relative_attention_max_distance", 128)
    whole_number(farthest, f"{path}: relative_attention_max_distance", least=buckets // 4 + 1)
    gated = values.get("feed_forward_proj", "gated-gelu" if kind == "umt5" else "relu") == "gated-gelu"
    if values.get("model_type") != kind or not gated:
        raise InputError(
            f"{path} must describe a {kind.upper()} with gated-gelu, got model_type {values.get('model_type')!r}"
        )
    return values


def load_encoder(folder: Path, *, kind: str, dtype: torch.dtype, device: torch.device | str) -> Any:
    """transformers' encoder with every weight from the files, whatever the version's loader would do.

    Args:
        folder: ``text_encoder/`` of a checkpoint.
        kind: "t5" or "umt5".
        dtype: Of the parameters.
        device: Where they go.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files are not those of such an encoder; the message lists the keys.
        RuntimeError: The installed transformers computes something else.
    """
    import transformers

    config_class, model_class = (getattr(transformers, name) for name in _KINDS[kind])
    given = read_text_config(folder, kind=kind)
    config = built_from(folder / "config.json", lambda: config_class.from_dict(given))
    if (config.dense_act_fn, config.is_gated_act) != ("gelu_new", True):
        raise FailedError(
            f"this transformers reads gated-gelu as {config.dense_act_fn}, not as the tanh-approximated GELU "
            f"{kind.upper()} was trained with; install another version"
        )
    files = weight_files(folder, WEIGHTS)
    with fitting(files), torch.device("meta"):
        model = built_from(folder / "config.json", lambda: model_class(config))
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    weights: dict[str, Tensor] = {}
    for file_path in files:
        header, _ = read_header(file_path)
        with safe_open(file_path, framework="pt", device=str(device)) as file:
            for key, entry in header.items():
                # Whole checkpoints carry a decoder too.
                if key.startswith(("decoder.", "lm_head.")):
                    continue
                found[key] = tuple(entry["shape"])
                if found[key] == expected.get(key):
                    weights[key] = file.get_tensor(key).to(dtype, copy=True)
    given = [name for name in _NAMES if name in weights]
    if len(given) == 2 and not torch.equal(*(weights[name] for name in _NAMES)):
        raise InputError(f"{folder}: {_NAMES[0]} and {_NAMES[1]} differ, but {kind.upper()} has one input embedding")
    for name in _NAMES if given else ():
        found[name] = expected[name]
        weights[name] = weights[given[0]]
    key_problems(expected, found, what=folder)
    model.load_state_dict(weights, strict=True, assign=True)
    model.set_input_embeddings(model.shared)
    if model.encoder.embed_tokens.weight is not model.shared.weight:
        raise FailedError(f"this transformers does not tie {kind.upper()}'s input embedding; install another version")
    return model.eval().requires_grad_(False)


def tokenizer_file(folder: Path, names: tuple[str, ...] = _TOKENIZERS) -> Path:
    """The file of a tokenizer: the first of `names` that is there.

    Raises:
        FileNotFoundError: None is.
    """
    for name in names:
        if (folder / name).is_file():
            refuse_pointer(folder / name)
            return folder / name
    raise MissingFileError(
        f"{folder / names[0]} is missing{'' if len(names) == 1 else f', and so is {names[1]}'}: expected the tokenizer "
        "of a released checkpoint" + (", in its fast form" if len(names) == 1 else "")
    )


def token_ids(tokenizer: Any, prompt: str, *, length: int) -> list[int]:
    """Token ids of a prompt, the end mark last; what lies beyond `length` is cut off, and said."""
    ids = tokenizer.encode(prompt).ids
    say_cut(prompt, has=len(ids), used=length)
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def load_tokenizer(path: Path, config: Any) -> Any:
    """A `tokenizers.Tokenizer` that ends every prompt with the end mark, and neither cuts nor pads.

    Args:
        path: ``tokenizer.json``, or SentencePiece's ``spiece.model``, which transformers reads.
        config: Of the encoder it belongs to.

    Raises:
        ImportError: SentencePiece's file cannot be read without its package.
        ValueError: The file is another model's.
    """
    if path.suffix == ".json":
        from tokenizers import Tokenizer

        tokenizer = built_from(path, lambda: Tokenizer.from_file(str(path)))
    else:
        tokenizer = _from_sentencepiece(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    end = config.eos_token_id
    if tokenizer.encode("").ids != [end]:
        raise InputError(
            f"{path} turns the empty prompt into {tokenizer.encode('').ids}, expected the end mark [{end}] alone"
        )
    whole_number(config.pad_token_id, f"pad_token_id of the encoder that {path} is of", most=config.vocab_size - 1)
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise InputError(
            f"{path} knows {tokenizer.get_vocab_size()} tokens, the text encoder {config.vocab_size}: take both from "
            "one checkpoint"
        )
    return tokenizer


def _from_sentencepiece(path: Path) -> Any:
    if find_spec("sentencepiece") is None:
        raise MissingPackageError(f"{path} is read with sentencepiece: pip install 'flashwam[cogvideox]'")
    from transformers import T5TokenizerFast

    return T5TokenizerFast.from_pretrained(path.parent, local_files_only=True).backend_tokenizer
