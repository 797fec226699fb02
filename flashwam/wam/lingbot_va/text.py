# SPDX-License-Identifier: Apache-2.0
"""UMT5 embeddings of prompts, the same under every version of transformers.

The released weights presume one embedding, and two ways to get another are known. transformers 5 rebuilds T5 tokenizers
from their vocabulary, without the file's normaliser; and its first versions leave the encoder's input embedding untied,
hence without weights, where the configuration says ``tie_word_embeddings: false`` as Wan's does. So the tokenizer is
read from its file, the weights are placed key by key, the input embedding is tied here, and a prompt is encoded alone,
without padding, so that no convention for masks matters either.

Letters: L rows, D width.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from flashwam.wam.weights import key_problems, read_header, weight_files

__all__ = ["LENGTH", "Umt5", "clean_prompt", "tokenizer_file"]

LENGTH = 512
"""Rows of an embedding; those after the prompt's end are zero."""
_NAMES = ("shared.weight", "encoder.embed_tokens.weight")


def clean_prompt(prompt: str) -> str:
    """Broken unicode mended, HTML entities resolved twice, white space collapsed: what the text encoder is given."""
    try:
        import ftfy
    except ImportError as error:
        raise ImportError("prompts are cleaned with ftfy: pip install 'flashwam[lingbot]'") from error
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


class Umt5:
    """Tokenizer and encoder of a checkpoint.

    Args:
        checkpoint: Holds ``text_encoder/`` and ``tokenizer/tokenizer.json``.
        dtype: Of the parameters. Not float16, in which UMT5 overflows.
        device: Where the encoder runs.
        length: Rows of an embedding.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files are not those of a UMT5 encoder and its tokenizer.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        length: int = LENGTH,
    ) -> None:
        if dtype not in (torch.bfloat16, torch.float32):
            raise ValueError(f"dtype must be bfloat16 or float32: UMT5 overflows in {dtype}")
        checkpoint = Path(checkpoint)
        self.length = length
        self.model = _load_encoder(checkpoint / "text_encoder", dtype=dtype, device=device)
        self._tokenizer = _load_tokenizer(checkpoint / "tokenizer", self.model.config, length=length)

    def tokens(self, prompt: str) -> list[int]:
        """Token ids of a cleaned prompt, the end mark last, at most `length`."""
        return self._tokenizer.encode(prompt).ids

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """A cleaned prompt -> [L, D] in the encoder's dtype, on the CPU; rows after the end mark are zero."""
        ids = torch.tensor([self.tokens(prompt)], device=self.model.shared.weight.device)
        rows = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].cpu()
        return torch.cat([rows, rows.new_zeros(self.length - rows.shape[0], rows.shape[1])])


def _load_encoder(folder: Path, *, dtype: torch.dtype, device: torch.device | str) -> Any:
    """transformers' UMT5 encoder with every weight from the files, whatever the version's loader would do."""
    from transformers import UMT5Config, UMT5EncoderModel

    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected text_encoder/ of a released checkpoint")
    values = json.loads(path.read_text())
    if values.get("model_type") != "umt5" or values.get("feed_forward_proj", "gated-gelu") != "gated-gelu":
        raise ValueError(f"{path} must describe a UMT5 with gated-gelu, got model_type {values.get('model_type')!r}")
    config = UMT5Config.from_dict(values)
    if (config.dense_act_fn, config.is_gated_act) != ("gelu_new", True):
        raise RuntimeError(
            f"this transformers reads gated-gelu as {config.dense_act_fn}, not as the tanh-approximated GELU UMT5 was "
            "trained with; install another version"
        )
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    weights: dict[str, Tensor] = {}
    for file_path in weight_files(folder, "model.safetensors"):
        header, _ = read_header(file_path)
        with safe_open(file_path, framework="pt", device=str(device)) as file:
            for key, entry in header.items():
                # Whole UMT5 checkpoints carry a decoder too.
                if key.startswith(("decoder.", "lm_head.")):
                    continue
                found[key] = tuple(entry["shape"])
                if found[key] == expected.get(key):
                    weights[key] = file.get_tensor(key).to(dtype, copy=True)
    given = [name for name in _NAMES if name in weights]
    if len(given) == 2 and not torch.equal(*(weights[name] for name in _NAMES)):
        raise ValueError(f"{folder}: {_NAMES[0]} and {_NAMES[1]} differ, but UMT5 has one input embedding")
    for name in _NAMES if given else ():
        found[name] = expected[name]
        weights[name] = weights[given[0]]
    key_problems(expected, found, what=folder)
    model.load_state_dict(weights, strict=True, assign=True)
    model.set_input_embeddings(model.shared)
    if model.encoder.embed_tokens.weight is not model.shared.weight:
        raise RuntimeError("this transformers does not tie UMT5's input embedding; install another version")
    return model.eval().requires_grad_(False)


def tokenizer_file(folder: Path) -> Path:
    """``tokenizer.json`` of a folder; a FileNotFoundError where it is missing."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected the tokenizer of a released checkpoint, in its fast form")
    return path


def _load_tokenizer(folder: Path, config: Any, *, length: int) -> Any:
    from tokenizers import Tokenizer

    path = tokenizer_file(folder)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    end = config.eos_token_id
    if tokenizer.encode("").ids != [end]:
        raise ValueError(
            f"{path} turns the empty prompt into {tokenizer.encode('').ids}, expected the end mark [{end}] alone"
        )
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise ValueError(
            f"{path} knows {tokenizer.get_vocab_size()} tokens, the text encoder {config.vocab_size}: take both from "
            "one checkpoint"
        )
    return tokenizer
