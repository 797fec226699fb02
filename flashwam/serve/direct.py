# SPDX-License-Identifier: Apache-2.0
"""A model in this process, loaded and called as diffusers' pipelines are."""

import re
from pathlib import Path
from typing import Self

import numpy as np
import torch

from flashwam.core.temperature import Temperature
from flashwam.serve.codec import Observation
from flashwam.serve.model import ServedModel, load_served
from flashwam.serve.session import PolicySession, in_order
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.hub import fetch_folder, is_on_hub
from flashwam.system.paths import user_path
from flashwam.wam.devices import device_named

__all__ = ["WamPipeline"]

_OWNER_AND_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")


class WamPipeline:
    """A model with its codec and samplers: a picture and a prompt in, controls out.

    A call is an episode of one chunk. A robot that goes on for longer takes `session`, which remembers what was seen
    and done.

    Args:
        model: As it is served.

    Attributes:
        model: The same; its `metadata` names the cameras, and tells how chunks are drawn.
    """

    def __init__(self, model: ServedModel) -> None:
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        nfe: str | None = None,
        preset: str | None = None,
        base: str | Path | None = None,
        temperature: Temperature | None = None,
        trust: bool = False,
    ) -> Self:
        """Loads a model.

        Args:
            pretrained_model_name_or_path: A model's or run's folder, or with a preset a released checkpoint; where
                there is no such folder, "owner/name" of the Hugging Face Hub. "hf:owner/name" is of the hub always.
            torch_dtype: torch.bfloat16 or torch.float32; that of the model's files if None.
            device: Where it runs.
            revision: On the hub: branch, tag or commit.
            nfe: See `load_served`.
            preset: See `load_served`.
            base: See `load_served`.
            temperature: See `load_served`.
            trust: Import the classes that its files name beside ours, and run their code.

        Raises:
            FileNotFoundError: There is no such folder or model, or a file of it is missing.
            ValueError: The hub has none of that name, or it cannot be loaded, sampled or rounded, or there is no
                such device.
        """
        # Before gigabytes are fetched for it.
        place = device_named(device)
        folder = _folder(pretrained_model_name_or_path, revision)
        dtype = None if torch_dtype is None else str(torch_dtype).removeprefix("torch.")
        served = load_served(
            folder,
            nfe=nfe,
            device=str(place),
            preset=preset,
            base=base,
            dtype=dtype,
            temperature=temperature,
            trust=trust,
        )
        return cls(served)

    def __call__(self, prompt: str, observation: Observation, *, seed: int | None = None) -> np.ndarray:
        """Draws the chunk that follows an observation.

        Args:
            prompt: The instruction.
            observation: Camera -> picture, uint8 [height, width, 3]; and "observation.<name>", float32, for every
                sense that the model has beside pictures.
            seed: Of the noise, 0 to 2**63 - 1; drawn anew if None.

        Returns:
            Controls in the robot's units, float32 [T, U]: T steps one after the other, U controls.

        Raises:
            UnsoundError: What was drawn is not finite, or nothing that a robot may do.
            ValueError: The observation is not what the model is shown, or the prompt or the seed is none.
        """
        session = self.session()
        session.reset(prompt, seed=seed)
        return in_order(session.infer(observation))

    def session(self) -> PolicySession:
        """The model's side of an episode: reset, then infer and refresh in turns."""
        return PolicySession(self.model)


def _folder(named: str | Path, revision: str | None) -> str | Path:
    """The folder of a model that is named as diffusers does."""
    here = user_path(named)
    on_hub = is_on_hub(named)
    if here.exists() or not (on_hub or _OWNER_AND_NAME.fullmatch(str(named))):
        if revision is not None:
            raise InputError(f"revision {revision!r} is of a model of the hub; {named} is named as a folder")
        return named
    at = "" if revision is None else f"@{revision}"
    if on_hub:
        return fetch_folder(f"{named}{at}")
    try:
        return fetch_folder(f"hf:{named}{at}")
    except (InputError, MissingFileError) as error:
        raise type(error)(f"there is no folder {named} here, and {error}") from error
