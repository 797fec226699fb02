# SPDX-License-Identifier: Apache-2.0
"""A family's knowledge of files beside its weights: other tools' checkpoints, encoders, what a model is driven with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from flashwam.core.streams import StreamSpec
from flashwam.data.actions import ActionNorm
from flashwam.data.codec import CODEC_FILE
from flashwam.data.pictures import PictureDecoder
from flashwam.system.errors import InputError
from flashwam.system.imports import find_class, reading
from flashwam.system.json_file import read_mapping
from flashwam.system.released import Released
from flashwam.wam.base import WorldActionModel

__all__ = [
    "FAMILY_FILES",
    "FamilyFiles",
    "all_files",
    "files_for_preset",
    "files_of",
    "files_of_codec",
    "files_that_say_how",
]

FAMILY_FILES = {
    "cogvideox": "flashwam.wam.cogvideox.files:CogVideoXFiles",
    "lingbot_va": "flashwam.wam.lingbot_va.files:LingBotFiles",
}
"""Family -> import path of its `FamilyFiles`."""


class FamilyFiles(ABC):
    """One family's knowledge of folders; every method reads or writes, none keeps anything.

    Attributes:
        presets: Names of settings for checkpoints that do not say how they are sampled.
        weights: Folders of a saved model that hold its weights.
        miniature: Folder of recipes for a small model in the simulator; None where there are none.
        miniature_teacher: Folder of a trained one in `flashwam/assets`; None where it has to be trained.
        text_encoder_parameters: Of the released text encoder; 0 where there is none.
        released: End of a folder's path -> the released checkpoint that recipes and pages put there.
        released_data: Name of a folder of recordings -> "owner/name" of the released data set that it is of.
    """

    presets: tuple[str, ...] = ()
    weights: tuple[str, ...] = ("transformer",)
    miniature: str | None = None
    miniature_teacher: str | None = None
    text_encoder_parameters: int = 0
    released: Mapping[str, Released] = MappingProxyType({})
    released_data: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def describe(self, folder: Path) -> dict[str, Any]:
        """A checkpoint of another tool, from configurations and headers.

        Raises:
            FileNotFoundError: it is none of this family's.
            ValueError: it is damaged.
        """

    @abstractmethod
    def check(self, folder: Path) -> None:
        """Refuses a checkpoint that this family cannot use, by its configuration alone.

        Raises:
            FileNotFoundError: it is none of this family's.
            ValueError: it is damaged, or of a kind that is not supported.
        """

    def says_how(self, folder: Path) -> bool:
        """Tells whether another tool's checkpoint says itself how it is run, so that it needs no preset."""
        return False

    def problems(self, folder: Path) -> list[str]:
        """Lists what of a saved model's weights does not fit its configurations, or is not finite.

        Raises:
            FileNotFoundError, ValueError: a file is missing or damaged.
        """
        return []

    @abstractmethod
    def load(
        self, folder: Path, *, preset: str | None, **options: Any
    ) -> tuple[WorldActionModel, str, Mapping[str, StreamSpec], dict[str, Any]]:
        """A checkpoint of another tool: model, kind, streams, and what else is known.

        Args:
            folder: The checkpoint.
            preset: Whose settings; None for a checkpoint that `says_how`.
            options: For the family's `from_pretrained`.
        """

    def import_weights(self, source: Path, target: Path) -> None:
        """Writes another tool's weights, in a layout that no model is loaded from, as a model folder.

        Further keywords are the family's own settings: whatever the weights do not say of themselves.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: its keys match nothing; or the family knows no such layout.
        """
        raise InputError(
            f"{source}: this family loads every layout it knows as it is, so there is nothing to import; name one of "
            f"its presets where it is used: {', '.join(self.presets) or 'none'}"
        )

    @abstractmethod
    def encodes(self, autoencoder: str) -> bool:
        """Tells whether `encoders` can use a checkpoint whose autoencoder is of this class."""

    @abstractmethod
    def encoders(self, folder: Path, *, device: torch.device | str) -> dict[str, Any]:
        """Keywords of `flashwam.data.encoders.Encoders` for a checkpoint with ``vae/``."""

    @abstractmethod
    def picture_decoder(self, folder: Path) -> PictureDecoder:
        """Decodes what a model draws into pictures, with ``vae/`` of a checkpoint."""

    @abstractmethod
    def codec(
        self,
        folder: Path,
        *,
        preset: str | None,
        base: Path | None,
        dtype: torch.dtype,
        device: str,
        encoder: str = "plain",
    ) -> tuple[Callable[[], Any], dict[str, Any]]:
        """Gives the opener of an episode's codec, and the facts of it that a client needs; `EncoderPasses` names the
        encoders."""

    def blank_codec(
        self,
        data: Any,
        *,
        actions: ActionNorm,
        prompts: Callable[[str], torch.Tensor],
        dtype: torch.dtype,
        device: torch.device | str,
        **autoencoder: Any,
    ) -> Any | None:
        """A codec of the released autoencoder's size with fresh weights, for plans (on the device "meta") and timings;
        None for a family without one.

        Args:
            data: Section of a recipe, whose cameras it is for.
            actions: Normalisation of the controls.
            prompts: prompt -> [L, D].
            dtype, device: Of the autoencoder.
            autoencoder: Keywords of it that are to be of another size.
        """
        return None

    def frame_codec(
        self, folder: Path, *, preset: str | None = None, base: Path | None = None, dtype: torch.dtype, device: str
    ) -> Any:
        """The codec of episodes in lock-step, a picture per latent frame, with what `flashwam.data.codec.Codec` has.

        Raises:
            ValueError: the family's autoencoder needs several pictures per latent frame.
        """
        raise InputError(
            f"{folder}: the simulator shows one picture per latent frame, and this model's autoencoder needs more: "
            "judge it on recorded episodes: flashwam evaluate MODEL --recordings"
        )

    @abstractmethod
    def note_codec(
        self, folder: Path, *, model: WorldActionModel, data: Any, actions: ActionNorm, pretrained: Path | None
    ) -> None:
        """Writes beside a trained model what `codec` needs, where its data were encoded as this family does."""


def all_files() -> Iterator[FamilyFiles]:
    """Lists what every family knows of files."""
    for name in FAMILY_FILES:
        yield find_class(name, FamilyFiles, known=FAMILY_FILES, what="model family")()


def files_of(family: str) -> FamilyFiles | None:
    """Finds what one family knows of files; None where it has no more to say than its models do."""
    return None if family not in FAMILY_FILES else find_class(family, FamilyFiles, known=FAMILY_FILES, what="family")()


def files_for_preset(preset: str) -> FamilyFiles:
    """Finds the family that has a preset.

    Raises:
        ValueError: no family has it.
    """
    for files in all_files():
        if preset in files.presets:
            return files
    known = sorted(name for files in all_files() for name in files.presets)
    raise InputError(f"unknown preset {preset!r}; expected one of {known}")


def files_that_say_how(folder: Path) -> FamilyFiles | None:
    """Finds the family whose checkpoint this is, where it says itself how it is run; None for any other folder."""
    return next((files for files in all_files() if files.says_how(folder)), None)


def files_of_codec(folder: Path) -> FamilyFiles | None:
    """Finds the family that ``codec.json`` in a folder names; None where it names none."""
    path = folder / CODEC_FILE
    name = read_mapping(path).get("family") if path.exists() else None
    if name is None:
        return None
    with reading(path):
        return find_class(name, FamilyFiles, known=FAMILY_FILES, what="codec family")()
