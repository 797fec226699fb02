# SPDX-License-Identifier: Apache-2.0
"""Embedded prompts on disk, so that a text encoder is needed only for new ones.

Letters: L rows, D width.
"""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flashwam.data.hashed_text import say_cut
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import cache_folder, user_path
from flashwam.system.tensor_file import write_tensors
from flashwam.wam.t5 import WEIGHTS, tokenizer_file
from flashwam.wam.weights import digest, samples

__all__ = ["TEXT_CACHE", "PromptCache", "TextEncoder", "fingerprint"]

TEXT_CACHE = "text_cache"
"""Folder of a checkpoint that holds embedded prompts; it is read, never written."""
_OWNER = "encoder.json"
_MOST_HELD = 64

logger = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """The interface of what turns a prompt into an embedding."""

    def encode(self, prompt: str) -> Tensor:
        """A cleaned prompt -> [L, D], on the CPU."""

    def count(self, prompt: str) -> int:
        """Tokens of a cleaned prompt, those beyond L too."""


class PromptCache(ABC):
    """Embeds prompts and keeps them; the encoder is loaded only for a prompt that is new.

    A folder belongs to one encoder: its fingerprint is noted there and is part of every file's name, so that an
    embedding of another encoder, tokenizer or dtype can never be taken for one of these. Without a folder, prompts are
    kept in this package's own (see `cache_folder`), and those in ``text_cache/`` of the checkpoint are read as well: a
    checkpoint is never written to. Where nothing can be kept they are held in memory.

    Args:
        folder: Of the embedded prompts; created when the first is written. None: see above.
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
        folder: str | Path | None = None,
        *,
        checkpoint: str | Path | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        length: int | None = None,
    ) -> None:
        length = self.rows if length is None else length
        root = user_path(checkpoint) if checkpoint is not None else None
        self._checkpoint = root if root is not None and (root / "text_encoder").is_dir() else None
        self._dtype, self._device, self._length = dtype, device, length
        self._encoder: TextEncoder | None = None
        self._held: dict[str, Tensor] = {}
        given = user_path(folder) if folder is not None else None if root is None else root / TEXT_CACHE
        noted = None if given is None else _noted(given)
        own = None
        if self._checkpoint is not None:
            file = tokenizer_file(self._checkpoint / "tokenizer", self.tokenizers)
            own = fingerprint(self._checkpoint, tokenizer=file, dtype=dtype, length=length)
        if folder is not None and noted is not None and own is not None and noted != own:
            raise InputError(
                f"{given} holds prompts of another text encoder, tokenizer, dtype or length than {checkpoint}; "
                "give another folder"
            )
        self._fingerprint = own or noted
        kept = given if folder is not None else None if own is None else _own_folder(own, self._checkpoint)
        self._kept = kept
        """Folder that new prompts are written to; None keeps them in memory."""
        self._own = folder is None
        """True if that is this package's own folder, where nothing is lost by making a file again."""
        of_checkpoint = given if folder is None and noted is not None and noted == self._fingerprint else None
        self._read = [place for place in (kept, of_checkpoint) if place is not None] or [given or Path(TEXT_CACHE)]

    @staticmethod
    @abstractmethod
    def clean(prompt: str) -> str:
        """Gives the text that the encoder sees of a prompt."""

    @abstractmethod
    def load(self, checkpoint: Path, *, dtype: torch.dtype, device: torch.device | str, length: int) -> TextEncoder:
        """The encoder of a checkpoint."""

    def path(self, prompt: str) -> Path:
        """File of a prompt: where it is, or where it would be written.

        Raises:
            FileNotFoundError: There is neither an encoder nor a folder of prompts.
        """
        name = self._name(prompt)
        return next((place / name for place in self._read if _is_file(place / name)), self._read[0] / name)

    def encode(self, prompt: str) -> Tensor:
        """prompt -> [L, D]; "" gives what guidance needs.

        Raises:
            FileNotFoundError: The prompt is new and there is no encoder.
            ValueError: The prompt's file is damaged.
        """
        name = self._name(prompt)
        if (held := self._held.get(name)) is not None:
            return held
        path = self.path(prompt)
        if _is_file(path):
            try:
                return self._load(path, prompt)
            except (SafetensorError, KeyError, OSError, ValueError) as error:
                if not self._own or self._checkpoint is None:
                    raise InputError(f"{path} is damaged ({error}); remove it and embed the prompt again") from error
        if self._checkpoint is None:
            raise MissingFileError(
                f"prompt {self.clean(prompt)!r} is not among those in {self._read[0]}, and there is no text encoder "
                "here: embed it where text_encoder/ and tokenizer/ are"
            )
        if self._encoder is None:
            self._encoder = self.load(self._checkpoint, dtype=self._dtype, device=self._device, length=self._length)
        embedding = self._encoder.encode(self.clean(prompt)).contiguous()
        if not self._keep(name, embedding, prompt):
            for oldest in list(self._held)[: max(0, len(self._held) - _MOST_HELD + 1)]:
                self._held.pop(oldest, None)
            self._held[name] = embedding
        return embedding

    def prepare(self, prompts: Sequence[str]) -> None:
        """Embeds many prompts, then frees the encoder."""
        for prompt in prompts:
            self.encode(prompt)
        self.release()

    def release(self) -> None:
        """Frees the encoder; the next new prompt loads it again."""
        self._encoder = None

    def _name(self, prompt: str) -> str:
        if self._fingerprint is None:
            raise MissingFileError(
                f"no text encoder was given and {self._read[0]} holds no prompts: give a checkpoint with text_encoder/ "
                "and tokenizer/, or the folder of prompts that were embedded with one"
            )
        key = hashlib.sha256(f"{self._fingerprint}\n{self.clean(prompt)}".encode()).hexdigest()
        return f"{key}.safetensors"

    def _load(self, path: Path, prompt: str) -> Tensor:
        """An embedding from its file, which also says how long its prompt was.

        Raises:
            SafetensorError, KeyError, OSError, ValueError: It holds something else.
        """
        with safe_open(path, framework="pt") as file:
            tokens = (file.metadata() or {}).get("tokens", "")
            embedding = file.get_tensor("embedding")
        # Without the encoder nothing says how many rows it gave.
        rows = embedding.shape[:1] if self._checkpoint is None else (self._length,)
        if embedding.ndim != 2 or embedding.shape[:1] != rows or not embedding.is_floating_point():
            raise InputError(
                f"it holds {embedding.dtype} {list(embedding.shape)}, expected {list(rows)} rows of floats"
            )
        if not bool(torch.isfinite(embedding).all()):
            raise InputError("it holds numbers that are not finite")
        if tokens.isdecimal() and len(tokens) < 10:
            say_cut(self.clean(prompt), has=int(tokens), used=self._length)
        return embedding

    def _keep(self, name: str, embedding: Tensor, prompt: str) -> bool:
        """Writes an embedding; whether it could be. A folder that the user named must be writable."""
        if self._kept is None:
            return False
        try:
            self._kept.mkdir(parents=True, exist_ok=True)
            if not (self._kept / _OWNER).is_file():
                write_whole(self._kept / _OWNER, json.dumps({"fingerprint": self._fingerprint}))
            clean = self.clean(prompt)
            about = {"prompt": clean, "tokens": str(self._encoder.count(clean))}
            write_tensors(self._kept / name, {"embedding": embedding}, metadata=about)
        except OSError as error:
            if not self._own:
                raise
            self._kept = None
            logger.warning(
                "embedded prompts cannot be kept (%s) and are held in memory: set FLASHWAM_CACHE to a folder that can "
                "be written to",
                error,
            )
            return False
        return True


def _own_folder(own: str, checkpoint: Path) -> Path | None:
    """This package's folder for an encoder; its weights are looked at more closely than by the fingerprint."""
    root = cache_folder()
    if root is None:
        return None
    name = hashlib.sha256(f"{own}\n{samples(checkpoint / 'text_encoder', WEIGHTS)}".encode()).hexdigest()
    return root / "prompts" / name[:32]


def _noted(folder: Path) -> str | None:
    """Fingerprint of the encoder that a folder of prompts belongs to.

    Raises:
        ValueError: The note is damaged.
    """
    path = folder / _OWNER
    if not _is_file(path):
        return None
    try:
        return str(json.loads(path.read_bytes())["fingerprint"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} does not say which text encoder the prompts beside it are of: {error!r}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def fingerprint(checkpoint: Path, *, tokenizer: Path, dtype: torch.dtype, length: int) -> str:
    """Fingerprints what an embedding depends on: configuration, weights, tokenizer, dtype and length."""
    config = read_mapping(checkpoint / "text_encoder" / "config.json")
    own = {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")}
    parts = (str(dtype), str(length), json.dumps(own, sort_keys=True), digest(checkpoint / "text_encoder", WEIGHTS))
    made = hashlib.sha256("\n".join(parts).encode())
    made.update(tokenizer.read_bytes())
    return made.hexdigest()
