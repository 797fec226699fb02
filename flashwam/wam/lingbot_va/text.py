# SPDX-License-Identifier: Apache-2.0
"""UMT5 embeddings of prompts, the same under every version of transformers, kept on disk.

The released action statistics and weights presume one embedding, and two ways to get another are known. transformers 5
rebuilds T5 tokenizers from their vocabulary, without the file's normaliser; and its first versions leave the encoder's
input embedding untied, hence without weights, where the configuration says ``tie_word_embeddings: false`` as the
released one does. So the tokenizer is read from its file, the weights are placed key by key, the input embedding is
tied here, and a prompt is encoded alone, without padding, so that no convention for masks matters either.

Letters: L rows, D width.
"""

import hashlib
import html
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from flashwam.wam.weights import key_problems, read_header, weight_files

__all__ = ["LENGTH", "TEXT_CACHE", "PromptEncoder", "Umt5", "clean_prompt"]

LENGTH = 512
"""Rows of an embedding; those after the prompt's end are zero."""
TEXT_CACHE = "text_cache"
"""Folder of a checkpoint that holds embedded prompts."""
_OWNER = "encoder.json"
_EDGE = 2**20
_NAMES = ("shared.weight", "encoder.embed_tokens.weight")

logger = logging.getLogger(__name__)


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


class PromptEncoder:
    """Embeds prompts and keeps them; the encoder is loaded only for a prompt that is new.

    A folder belongs to one encoder: its fingerprint is noted there and is part of every file's name, so that an
    embedding of another encoder, tokenizer or dtype can never be taken for one of these.

    Args:
        folder: Of the embedded prompts; created when the first is written.
        checkpoint: Holds ``text_encoder/`` and ``tokenizer/``; None, or a folder without them, where every prompt is
            already there.
        dtype: See `Umt5`.
        device: See `Umt5`.
        length: See `Umt5`.

    Raises:
        ValueError: The folder belongs to another encoder.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        checkpoint: str | Path | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        length: int = LENGTH,
    ) -> None:
        self._folder = Path(folder)
        self._checkpoint = Path(checkpoint) if checkpoint is not None else None
        if self._checkpoint is not None and not (self._checkpoint / "text_encoder").is_dir():
            self._checkpoint = None
        self._options: dict[str, Any] = {"dtype": dtype, "device": device, "length": length}
        self._umt5: Umt5 | None = None
        owner = self._folder / _OWNER
        noted = json.loads(owner.read_text())["fingerprint"] if owner.is_file() else None
        own = None if self._checkpoint is None else fingerprint(self._checkpoint, dtype=dtype, length=length)
        if noted is not None and own is not None and noted != own:
            raise ValueError(
                f"{self._folder} holds prompts of another text encoder, tokenizer, dtype or length than {checkpoint}; "
                "give another folder"
            )
        self._fingerprint = own or noted

    def path(self, prompt: str) -> Path:
        """File of a prompt.

        Raises:
            FileNotFoundError: There is neither an encoder nor a folder of prompts.
        """
        if self._fingerprint is None:
            raise FileNotFoundError(
                f"no text encoder was given and {self._folder} holds no prompts: give a checkpoint with text_encoder/ "
                "and tokenizer/, or the folder of prompts that were embedded with one"
            )
        key = hashlib.sha256(f"{self._fingerprint}\n{clean_prompt(prompt)}".encode()).hexdigest()
        return self._folder / f"{key}.safetensors"

    def encode(self, prompt: str) -> Tensor:
        """prompt -> [L, D]; "" gives what guidance needs.

        Raises:
            FileNotFoundError: The prompt is new and there is no encoder.
            ValueError: The prompt's file is damaged.
        """
        path = self.path(prompt)
        if path.is_file():
            try:
                return load_file(path)["embedding"]
            except (SafetensorError, KeyError) as error:
                raise ValueError(f"{path} is damaged ({error}); remove it and embed the prompt again") from error
        if self._checkpoint is None:
            raise FileNotFoundError(
                f"prompt {clean_prompt(prompt)!r} is not among those in {self._folder}, and there is no text encoder "
                "here: embed it where text_encoder/ and tokenizer/ are"
            )
        if self._umt5 is None:
            self._umt5 = Umt5(self._checkpoint, **self._options)
        embedding = self._umt5.encode(clean_prompt(prompt))
        self._folder.mkdir(parents=True, exist_ok=True)
        _write(self._folder / _OWNER, json.dumps({"fingerprint": self._fingerprint}).encode())
        partial = path.with_suffix(f".{os.getpid()}.part")
        save_file({"embedding": embedding.contiguous()}, partial, metadata={"prompt": clean_prompt(prompt)})
        partial.replace(path)
        return embedding

    def release(self) -> None:
        """Frees the encoder; the next new prompt loads it again."""
        self._umt5 = None


def fingerprint(checkpoint: Path, *, dtype: torch.dtype, length: int) -> str:
    """What an embedding depends on: configuration, tokenizer, dtype, length, and of every weight file its header and
    both ends (a whole reading of 11 GB would take longer than embedding)."""
    digest = hashlib.sha256(f"{dtype} {length}".encode())
    config = json.loads((checkpoint / "text_encoder" / "config.json").read_text())
    own = {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")}
    digest.update(json.dumps(own, sort_keys=True).encode())
    digest.update(_tokenizer_file(checkpoint / "tokenizer").read_bytes())
    for path in weight_files(checkpoint / "text_encoder", "model.safetensors"):
        header, _ = read_header(path)
        digest.update(json.dumps(header, sort_keys=True).encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, path.stat().st_size - _EDGE))
            digest.update(file.read())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    if not path.is_file():
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(content)
        partial.replace(path)


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


def _tokenizer_file(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected the tokenizer of a released checkpoint, in its fast form")
    return path


def _load_tokenizer(folder: Path, config: Any, *, length: int) -> Any:
    from tokenizers import Tokenizer

    path = _tokenizer_file(folder)
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
