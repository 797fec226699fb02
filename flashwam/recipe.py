# SPDX-License-Identifier: Apache-2.0
"""What a recipe fixes: frozen, typed sections with their ranges. `flashwam.config` reads YAML into these."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flashwam.core.streams import StreamSpec

__all__ = ["DataConfig", "AutoencoderConfig", "EvaluateConfig", "LoopConfig", "Recipe", "WamConfig"]


def _check(section: str, key: str, value: object, valid: bool, expected: str) -> None:
    if not valid:
        raise ValueError(f"{section}.{key} must be {expected}; got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Demonstrations: what to collect, where they lie, what a training sample is."""

    root: str = "data/demo"
    """Folder with one LeRobot repository per task."""
    tasks: tuple[str, ...] = ("button-press-topdown", "drawer-open", "reach-wall")
    """Task names of `flashwam.sim.tasks`."""
    episodes: int = 100
    """Demonstrations per ordinary task."""
    multimodal_episodes: int = 300
    """Demonstrations per task with several ways; enough that a teacher cannot memorise which way each took."""
    window_frames: int = 6
    """Latent frames per training sample."""
    image_size: int = 64
    """Side of the rendered frames in pixels."""
    action_noise: float = 0.3
    """Standard deviation of the bursts of noise added to the executed action, in action units."""
    processes: int = 2
    """Collecting processes."""
    seed: int = 0
    """Seed of resets, coins and noise."""

    def __post_init__(self) -> None:
        for key in ("episodes", "multimodal_episodes", "window_frames", "image_size", "processes"):
            _check("data", key, getattr(self, key), getattr(self, key) >= 1, "at least 1")
        _check("data", "action_noise", self.action_noise, self.action_noise >= 0, "at least 0")
        _check("data", "tasks", self.tasks, len(self.tasks) > 0, "a non-empty list of task names")


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    """The image autoencoder whose latents the video stream consists of."""

    pretrained: str | None = None
    """Folder of a trained one; null trains it on the episodes."""
    latent_channels: int = 6
    """Channels of a latent frame."""
    width: int = 64
    """Channels inside the network."""
    steps: int = 1500
    """Training steps."""
    batch_size: int = 32
    """Frames per step."""
    lr: float = 2e-3
    """Peak learning rate."""

    def __post_init__(self) -> None:
        for key in ("latent_channels", "width", "steps", "batch_size"):
            _check("autoencoder", key, getattr(self, key), getattr(self, key) >= 1, "at least 1")
        _check("autoencoder", "lr", self.lr, self.lr > 0, "positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class WamConfig:
    """The world-action model."""

    family: str = "lingbot_va"
    """Folder of `flashwam.wam` that holds the family."""
    pretrained: str | None = None
    """Folder of a trained teacher; null starts from the config below."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the family's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """One training loop: a teacher's training, a distillation, or a second stage."""

    method: str = "flow_matching"
    """Name in `flashwam.distill.methods`, or an import path "package.module:Class"."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the method."""
    init: str | None = None
    """Folder of the weights the trained model starts from; null: the teacher's (or fresh ones for a teacher)."""
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 32
    """Samples per step over all processes, before accumulation."""
    accumulation: int = 1
    """Batches per optimiser step."""
    lr: float = 1e-4
    """Learning rate after warm-up."""
    warmup_steps: int = 100
    """Steps of linear warm-up from 0."""
    lr_decay: Literal["constant", "cosine"] = "constant"
    """Course of the learning rate after warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW betas."""
    weight_decay: float = 0.0
    """AdamW weight decay."""
    clip_norm: float = 2.0
    """Gradient norm above which gradients are scaled down."""
    ema_decay: float = 0.995
    """Decay of the target's exponential moving average; the target is also what is saved when save_target."""
    save_weights: Literal["student", "target"] = "student"
    """Which copy is exported as the result."""
    precision: Literal["no", "bf16"] = "no"
    """Mixed precision of accelerate."""
    strategy: Literal["single", "ddp", "zero2", "zero3"] = "single"
    """How processes share the work; the zero strategies need deepspeed."""
    log_every: int = 10
    """Steps between log lines."""
    diagnose_every: int = 50
    """Steps between gradient diagnostics (per-stream norms, cosine); 0 for never."""
    save_every: int = 200
    """Steps between checkpoints."""
    keep_steps: tuple[int, ...] = ()
    """Steps at which an exported copy is kept beside the last, for curves over the budget."""

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "accumulation", "log_every", "save_every"):
            _check("loop", key, getattr(self, key), getattr(self, key) >= 1, "at least 1")
        for key in ("lr", "clip_norm"):
            _check("loop", key, getattr(self, key), getattr(self, key) > 0, "positive")
        for key in ("warmup_steps", "weight_decay", "diagnose_every"):
            _check("loop", key, getattr(self, key), getattr(self, key) >= 0, "at least 0")
        _check("loop", "ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "in [0, 1)")
        _check("loop", "betas", self.betas, len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two in [0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Closed-loop and open-loop evaluation."""

    tasks: tuple[str, ...] | None = None
    """Tasks to drive; null: those of `data.tasks`."""
    episodes: int = 50
    """Episodes per task."""
    nfe: tuple[str, ...] = ("1v/1a",)
    """Steps per stream and chunk, such as "1v/2a"; "full" is the teacher's own."""
    open_loop_samples: int = 96
    """Held-out windows for the open-loop measures."""
    seed: int = 0
    """Added to the evaluation seeds, which never meet the demonstrations'."""

    def __post_init__(self) -> None:
        _check("evaluate", "episodes", self.episodes, self.episodes >= 1, "at least 1")
        _check("evaluate", "nfe", self.nfe, len(self.nfe) >= 1, 'a non-empty list such as ["1v/1a", "1v/2a"]')


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One run, completely."""

    name: str
    """Name of the run; its folder is `run_dir`."""
    run_dir: str | None = None
    """Where the run is kept; null: runs/<name>."""
    seed: int = 0
    """Seed of every draw of training and distillation."""
    streams: Mapping[str, StreamSpec]
    """Per-stream choices, in generation order."""
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    wam: WamConfig = field(default_factory=WamConfig)
    train: LoopConfig = field(default_factory=LoopConfig)
    distill: LoopConfig | None = None
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
