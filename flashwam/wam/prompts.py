# SPDX-License-Identifier: Apache-2.0
"""Embedded prompts on disk, so that a text encoder is needed only for new ones.

Letters: L rows, D width.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flashwam.core.paths import user_path
from flashwam.wam.t5 import WEIGHTS, tokenizer_file
from flashwam.wam.weights import digest

__all__ = ["TEXT_CACHE", "PromptCache", "TextEncoder", "fingerprint"]

TEXT_CACHE = "text_cache"
"""Folder of a checkpoint that holds embedded prompts."""
_OWNER = "encoder.json"


class TextEncoder(Protocol):
    """What turns a prompt into an embedding."""

    def encode(self, prompt: str) -> Tensor:
        """A cleaned prompt -> [L, D], on the CPU."""


class PromptCache(ABC):
    """Embeds prompts and keeps them; the encoder is loaded only for a prompt that is new.

    A folder belongs to one encoder: its fingerprint is noted there and is part of every file's name, so that an
    embedding of another encoder, tokenizer or dtype can never be taken for one of these.

    Args:
        folder: Of the embedded prompts; created when the first is written.
        checkpoint: Holds ``text_encoder/`` and ``tokenizer/``; None, or a folder without them, where every prompt is
            already there.
        dtype: Of the encoder.
        device: Of the encoder.
        length: L; the class's `rows` if None.

    Raises:
        ValueError: The folder belongs to another encoder.
    """

    tokenizers: tuple[str, ...]
    """Names of the tokenizer's file."""
    rows: int
    """L of the released model."""

    def __init__(
        self,
        folder: str | Path,
        *,
        checkpoint: str | Path | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        length: int | None = None,
    ) -> None:
        length = self.rows if length is None else length
        self._folder = user_path(folder)
        self._checkpoint = user_path(checkpoint) if checkpoint is not None else None
        if self._checkpoint is not None and not (self._checkpoint / "text_encoder").is_dir():
            self._checkpoint = None
        self._dtype, self._device, self._length = dtype, device, length
        self._encoder: TextEncoder | None = None
        owner = self._folder / _OWNER
        noted = json.loads(owner.read_text())["fingerprint"] if owner.is_file() else None
        own = None
        if self._checkpoint is not None:
            file = tokenizer_file(self._checkpoint / "tokenizer", self.tokenizers)
            own = fingerprint(self._checkpoint, tokenizer=file, dtype=dtype, length=length)
        if noted is not None and own is not None and noted != own:
            raise ValueError(
                f"{self._folder} holds prompts of another text encoder, tokenizer, dtype or length than {checkpoint}; "
                "give another folder"
            )
        self._fingerprint = own or noted

    @staticmethod
    @abstractmethod
    def clean(prompt: str) -> str:
        """What the encoder is given of a prompt."""

    @abstractmethod
    def load(self, checkpoint: Path, *, dtype: torch.dtype, device: torch.device | str, length: int) -> TextEncoder:
        """The encoder of a checkpoint."""

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
        key = hashlib.sha256(f"{self._fingerprint}\n{self.clean(prompt)}".encode()).hexdigest()
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
                f"prompt {self.clean(prompt)!r} is not among those in {self._folder}, and there is no text encoder "
                "here: embed it where text_encoder/ and tokenizer/ are"
            )
        if self._encoder is None:
            self._encoder = self.load(self._checkpoint, dtype=self._dtype, device=self._device, length=self._length)
        embedding = self._encoder.encode(self.clean(prompt))
        self._folder.mkdir(parents=True, exist_ok=True)
        _write(self._folder / _OWNER, json.dumps({"fingerprint": self._fingerprint}).encode())
        partial = path.with_suffix(f".{os.getpid()}.part")
        save_file({"embedding": embedding.contiguous()}, partial, metadata={"prompt": self.clean(prompt)})
        partial.replace(path)
        return embedding

    def prepare(self, prompts: Sequence[str]) -> None:
        """Embeds many prompts, then frees the encoder."""
        for prompt in prompts:
            self.encode(prompt)
        self.release()

    def release(self) -> None:
        """Frees the encoder; the next new prompt loads it again."""
        self._encoder = None


def fingerprint(checkpoint: Path, *, tokenizer: Path, dtype: torch.dtype, length: int) -> str:
    """What an embedding depends on: configuration, weights, tokenizer, dtype and length."""
    config = json.loads((checkpoint / "text_encoder" / "config.json").read_text())
    own = {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")}
    parts = (str(dtype), str(length), json.dumps(own, sort_keys=True), digest(checkpoint / "text_encoder", WEIGHTS))
    made = hashlib.sha256("\n".join(parts).encode())
    made.update(tokenizer.read_bytes())
    return made.hexdigest()


def _write(path: Path, content: bytes) -> None:
    if not path.is_file():
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(content)
        partial.replace(path)
