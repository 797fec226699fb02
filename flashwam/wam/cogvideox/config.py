# SPDX-License-Identifier: Apache-2.0
"""Settings of the adapter beside the networks' own configurations."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from flashwam.core.checks import check_number
from flashwam.system.errors import InputError
from flashwam.wam.wam_file import load_config, save_config

__all__ = [
    "CONDITIONINGS",
    "DRAW_SETTINGS",
    "FAMILY",
    "PIXELS_PER_LATENT",
    "ROPE_MODES",
    "CogVideoXConfig",
    "split_options",
]

FAMILY = "cogvideox"
PIXELS_PER_LATENT = 8
"""Rows and columns of pixels that a latent of the released autoencoder spans."""
CONDITIONINGS = ("channel_concat", "prefix")
ROPE_MODES = ("integer", "resize_crop")
PREDICTIONS = ("v",)
ROLLOUTS = ("dynamic", "graphed")
DRAW_SETTINGS = ("conditioning", "rope_mode", "robot", "snr_shift", "beta_start", "beta_end", "norm_out_eps")
"""Fields of `CogVideoXConfig` that decide draws and that no weight shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CogVideoXConfig:
    """Shape of a chunk and noise of the teacher; kept in ``wam.json`` beside ``transformer/`` and ``action/``.

    Args:
        latent_size: Rows and columns of the video latents (before patches).
        chunk_frames: Latent frames F of a chunk, the observed frame 0 included.
        actions_per_frame: Controls N between two latent frames.
        action_dim: Channels A of one control.
        action_tokens: Controls K that are drawn: the first K of the (F - 1) N slots; null for all of them.
        execute_frames: New frames that are acted out before the next chunk is drawn; null for all whose every action is
            drawn.
        conditioning: How the observation enters. "channel_concat": every frame is drawn, and the observation is a
            second block of channels, zero beyond frame 0. "prefix": frame 0 is the observation, at the clean timestep.
        rope_mode: Positions of the rotary embedding: "integer" counts patches, "resize_crop" stretches them over
            the resolution the network was pre-trained at, as diffusers' pipelines do.
        robots: Number of robots the network tells apart; 0 for no embedding.
        robot: Which of them it drives where nothing else is said.
        snr_shift: Divisor of the signal-to-noise ratio: 1 for CogVideoX-5b, 3 for 2b.
        beta_start, beta_end: Ends of the scaled-linear betas.
        prediction: What the network puts out; "v" is all that is defined at zero terminal SNR.
        norm_out_eps: Epsilon of the last normalisation where it differs from the transformer's own (VideoVLA: 1e-6).
        rollout: "graphed" captures a pass of a rollout in a CUDA graph, one for every kind of pass.

    Raises:
        ValueError: for a value outside its range, naming field and value.
    """

    latent_size: tuple[int, int]
    chunk_frames: int
    actions_per_frame: int
    action_dim: int
    action_tokens: int | None = None
    execute_frames: int | None = None
    conditioning: str = "channel_concat"
    rope_mode: str = "integer"
    robots: int = 0
    robot: int = 0
    snr_shift: float = 1.0
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: str = "v"
    norm_out_eps: float | None = None
    rollout: str = "dynamic"

    def __post_init__(self) -> None:
        object.__setattr__(self, "latent_size", tuple(self.latent_size))
        if len(self.latent_size) != 2 or min(self.latent_size) < 1:
            raise InputError(f"latent_size must be two positive numbers (rows, columns), got {self.latent_size}")
        self._check("chunk_frames", self.chunk_frames >= 2, "at least 2: the observed frame and a new one")
        self._check("actions_per_frame", self.actions_per_frame >= 1, "at least 1")
        self._check("action_dim", self.action_dim >= 1, "at least 1")
        if self.action_tokens is None:
            object.__setattr__(self, "action_tokens", self.action_slots)
        slots = f"1..{self.action_slots}, (chunk_frames - 1) * actions_per_frame"
        self._check("action_tokens", 1 <= self.action_tokens <= self.action_slots, slots)
        most = self.action_tokens // self.actions_per_frame
        if self.execute_frames is None:
            object.__setattr__(self, "execute_frames", most)
        new = f"1..{most}, the new frames whose every action is drawn (action_tokens // actions_per_frame)"
        self._check("execute_frames", 1 <= self.execute_frames <= most, new)
        self._check("conditioning", self.conditioning in CONDITIONINGS, f"one of {CONDITIONINGS}")
        self._check("rope_mode", self.rope_mode in ROPE_MODES, f"one of {ROPE_MODES}")
        self._check("prediction", self.prediction in PREDICTIONS, f"one of {PREDICTIONS}")
        self._check("rollout", self.rollout in ROLLOUTS, f"one of {', '.join(ROLLOUTS)}")
        self._check("robots", self.robots >= 0, "at least 0")
        self._check("robot", 0 <= self.robot < max(1, self.robots), f"0..{max(1, self.robots) - 1}")
        check_number("snr_shift", self.snr_shift, low=1e-3, high=1e3)
        betas = 0 < self.beta_start <= self.beta_end < 1
        self._check("beta_end", betas, f"between beta_start = {self.beta_start} > 0 and 1")
        self._check("norm_out_eps", self.norm_out_eps is None or self.norm_out_eps > 0, "null or positive")

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise InputError(f"{name} must be {expected}; got {getattr(self, name)!r}")

    @property
    def action_slots(self) -> int:
        """Controls between the first and the last frame of a chunk, (F - 1) N."""
        return (self.chunk_frames - 1) * self.actions_per_frame

    def save(self, folder: str | Path) -> None:
        """Writes ``wam.json`` into a folder."""
        save_config(folder, self, family=FAMILY)

    @classmethod
    def load(cls, folder: str | Path) -> "CogVideoXConfig":
        """Reads ``wam.json`` from a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is another family's, or its fields are not these.
        """
        missing = (
            f"it is not known how {folder} is run: take a bare CogVideoX checkpoint on with "
            "CogVideoX.adopt(folder, latent_size=..., chunk_frames=..., actions_per_frame=..., action_dim=...)"
        )
        return load_config(folder, cls, family=FAMILY, missing=missing)


def split_options(options: Mapping[str, Any]) -> tuple[CogVideoXConfig, dict[str, Any]]:
    """The chunk's configuration, and the transformer's keywords.

    Raises:
        ValueError: As `CogVideoXConfig`.
    """
    own = {field.name for field in fields(CogVideoXConfig)}
    config = CogVideoXConfig(**{key: value for key, value in options.items() if key in own})
    return config, {key: value for key, value in options.items() if key not in own}
