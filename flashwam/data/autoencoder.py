# SPDX-License-Identifier: Apache-2.0
"""A small per-frame autoencoder: pictures of 64 pixels to latents of 8 x 8, trained on the episodes in about a minute.

Around diffusers' `AutoencoderTiny`: pixels are folded into channels first (pixel unshuffle), so that no convolution
runs at full size; latents are normalised per channel with statistics that are stored beside the weights.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flashwam.core.checks import check_statistics
from flashwam.data.episodes import find_repos, read_episode_list, read_frames, read_info, video_path
from flashwam.system.changed_settings import changed_settings
from flashwam.system.errors import DivergedError, InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import built_from, read_mapping
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import fitting, load_tensors, write_torch

__all__ = ["FrameAutoencoder", "load_training_frames", "psnr", "train_autoencoder"]

logger = logging.getLogger(__name__)

STATS = "latent_stats.json"
_STATE = "training.pt"
_SETTINGS = "training.json"


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255.0**2 / max(error, 1e-12)))


class FrameAutoencoder(nn.Module):
    """Encodes single pictures; the temporal factor is 1.

    Args:
        latent_channels: C.
        width: Channels of the convolutions.
        patch: Pixels folded into channels on each axis; the whole spatial factor is twice that.
        blocks: Residual blocks at each of the two sizes.
    """

    def __init__(self, *, latent_channels: int = 6, width: int = 64, patch: int = 4, blocks: int = 1) -> None:
        super().__init__()
        from diffusers import AutoencoderTiny

        self.config = {"latent_channels": latent_channels, "width": width, "patch": patch, "blocks": blocks}
        self.patch = patch
        self.vae = AutoencoderTiny(
            in_channels=3 * patch**2,
            out_channels=3 * patch**2,
            encoder_block_out_channels=(width, width),
            decoder_block_out_channels=(width, width),
            num_encoder_blocks=(blocks, blocks),
            num_decoder_blocks=(blocks, blocks),
            latent_channels=latent_channels,
            upsampling_scaling_factor=2,
        )
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("std", torch.ones(latent_channels))
        self.psnr: float | None = None

    @property
    def latent_channels(self) -> int:
        """C."""
        return self.config["latent_channels"]

    @property
    def factor(self) -> int:
        """Pixels per latent on each axis."""
        return 2 * self.patch

    def raw_encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], [B, 3, H, W], to latents before normalisation, [B, C, h, w]."""
        return self.vae.encode(F.pixel_unshuffle(pixels, self.patch)).latents

    def raw_decode(self, latents: Tensor) -> Tensor:
        """Latents before normalisation, [B, C, h, w], to pixels about [-1, 1], [B, 3, H, W]."""
        return F.pixel_shuffle(self.vae.decode(latents).sample, self.patch)

    @torch.no_grad()
    def encode(self, frames: np.ndarray | Tensor, *, batch_size: int = 256) -> Tensor:
        """Encodes pictures.

        Args:
            frames: uint8 [..., H, W, 3].
            batch_size: Pictures at a time.

        Returns:
            Latents of about zero mean and unit variance per channel, float32 [..., C, h, w].
        """
        frames = torch.as_tensor(frames)
        if frames.dtype != torch.uint8 or frames.ndim < 3 or frames.shape[-1] != 3:
            raise TypeError(f"expected uint8 pictures [..., H, W, 3], got {frames.dtype} {tuple(frames.shape)}")
        if frames.shape[-2] % self.factor or frames.shape[-3] % self.factor:
            raise InputError(f"height and width must be multiples of {self.factor}, got {tuple(frames.shape[-3:-1])}")
        flat = frames.reshape(-1, *frames.shape[-3:])
        out = []
        for part in flat.split(batch_size):
            pixels = part.to(self.mean.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            latents = self.raw_encode(pixels)
            out.append((latents - self.mean[:, None, None]) / self.std[:, None, None])
        latents = torch.cat(out)
        return latents.reshape(*frames.shape[:-3], *latents.shape[1:])

    @torch.no_grad()
    def decode(self, latents: Tensor, *, batch_size: int = 256) -> Tensor:
        """Decodes normalised latents [..., C, h, w] to pictures, uint8 [..., H, W, 3]."""
        flat = latents.reshape(-1, *latents.shape[-3:]).to(self.mean)
        out = []
        for part in flat.split(batch_size):
            pixels = self.raw_decode(part * self.std[:, None, None] + self.mean[:, None, None])
            out.append(((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
        frames = torch.cat(out)
        return frames.reshape(*latents.shape[:-3], *frames.shape[1:])

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes diffusers' own files, then the statistics, whose presence says that the folder is complete."""
        self.vae.save_pretrained(folder)
        stats = {
            "config": self.config,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "psnr": self.psnr,
        }
        write_whole(user_path(folder) / STATS, json.dumps(stats, indent=2).encode())

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "FrameAutoencoder":
        """Loads what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: The folder holds no complete autoencoder.
            ValueError: A file is damaged, they do not fit each other, or the statistics make no sense.
        """
        folder = user_path(folder)
        path = folder / STATS
        stats = read_mapping(path, missing=f"{folder} holds no complete autoencoder; train it first")

        def built() -> "FrameAutoencoder":
            out = cls(**stats["config"])
            out.vae.load_state_dict(load_tensors(folder / "diffusion_pytorch_model.safetensors"))
            check_statistics(stats["mean"], stats["std"], channels=out.latent_channels)
            out.mean.copy_(torch.tensor(stats["mean"]))
            out.std.copy_(torch.tensor(stats["std"]))
            out.psnr = stats["psnr"]
            return out.eval()

        with fitting(folder):
            return built_from(path, built)


def load_training_frames(root: Path | str, *, per_repo: int | None = None, progress: bool = True) -> list[np.ndarray]:
    """Decodes the pictures that were rendered (not the rows that repeat them).

    Args:
        root: Folder of the repos.
        per_repo: Episodes taken from each repo, spread evenly; None for all.
        progress: Show a progress bar.

    Returns:
        Per repo uint8 [T, H, W, 3].
    """
    from tqdm import tqdm

    out = []
    for repo in tqdm(find_repos(user_path(root)), desc="pictures", unit="task", disable=not progress):
        every = read_info(repo).get("render_every", 1)
        episodes = read_episode_list(repo)
        if per_repo is not None and len(episodes) > per_repo:
            episodes = [episodes[i] for i in np.linspace(0, len(episodes) - 1, per_repo).astype(int)]
        parts = [read_frames(video_path(repo, e["episode_index"]), range(0, e["length"], every)) for e in episodes]
        out.append(np.concatenate(parts))
    return out


def _saliency(frames: np.ndarray) -> np.ndarray:
    """Weights of pixels: 1 where a picture looks like its task's median picture, up to 6 where it does not."""
    usual = np.median(frames[:: max(1, len(frames) // 500)], axis=0)
    away = np.abs(frames.astype(np.int16) - usual.astype(np.int16)).max(axis=-1)
    return np.minimum(away // 8, 5).astype(np.uint8)


def train_autoencoder(
    root: Path | str,
    folder: Path | str,
    *,
    steps: int = 1500,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    per_repo: int | None = 120,
    checkpoint_every: int = 250,
    progress: bool = True,
    **config: Any,
) -> FrameAutoencoder:
    """Trains the autoencoder on the episodes below `root`, or loads it if `folder` holds it already.

    The loss is a squared error that counts pixels up to six times where they differ from the task's usual picture
    (arm, object, goal), with a little noise on the latents so that they can be decoded when a model draws them. Every
    draw depends on (seed, step) alone, so a killed training goes on to the same weights.

    Args:
        root: Folder of the repos.
        folder: Where the autoencoder goes.
        steps: Optimisation steps.
        batch_size: Pictures a step.
        learning_rate: Peak of a one-cycle schedule.
        seed: Of weights and draws.
        per_repo: Episodes taken from each repo; None for all.
        checkpoint_every: Steps between checkpoints.
        progress: Show progress bars.
        **config: Arguments of `FrameAutoencoder`.

    Raises:
        ValueError: `folder` holds one that was trained otherwise.
        FloatingPointError: The loss is not finite.
    """
    from tqdm import tqdm

    folder = user_path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FrameAutoencoder(**config)
    asked = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "per_repo": per_repo}
    _claim(folder, {**asked, "seed": seed, **model.config})
    if (folder / STATS).is_file():
        logger.info("autoencoder found in %s", folder)
        return FrameAutoencoder.from_pretrained(folder)
    repos = load_training_frames(root, per_repo=per_repo, progress=progress)
    # The last pictures of each repo belong to its last episodes: held out, to measure on.
    held_out = np.concatenate([frames[-max(1, len(frames) // 50) :] for frames in repos])
    repos = [frames[: -max(1, len(frames) // 50)] for frames in repos]
    weights = torch.from_numpy(np.concatenate([_saliency(frames) for frames in repos]))
    pictures = torch.from_numpy(np.concatenate(repos))
    optimizer = torch.optim.AdamW(model.vae.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    start = _resume(folder, model, optimizer, schedule)
    model.train()
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="autoencoder", unit="step", disable=not progress)
    for step in bar:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        index = torch.randint(len(pictures), (batch_size,), generator=generator)
        pixels = pictures[index].permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = model.raw_encode(pixels)
        noise = torch.randn(latents.shape, generator=generator)
        restored = model.raw_decode(latents + 0.05 * latents.detach().std() * noise)
        weight = 1 + weights[index].float().unsqueeze(1)
        loss = (weight * (restored - pixels) ** 2).mean() + 1e-4 * (latents**2).mean()
        if not torch.isfinite(loss):
            raise DivergedError(f"autoencoder: the loss is {loss.item()} at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
        if (step + 1) % checkpoint_every == 0 and step + 1 < steps:
            _checkpoint(folder, model, optimizer, schedule, step + 1)
    return _finish(folder, model.eval(), pictures, held_out)


def _claim(folder: Path, asked: dict[str, Any]) -> None:
    """Notes how the autoencoder in a folder is trained.

    Raises:
        ValueError: One is there, whole or begun, that was trained otherwise.
    """
    path, stats = folder / _SETTINGS, folder / STATS
    if not stats.is_file() and not (folder / _STATE).is_file():
        write_whole(path, json.dumps(asked, indent=2) + "\n")
        return
    noted: Any = {}
    if path.is_file():
        noted = read_mapping(path)
    elif stats.is_file():
        # From before settings were noted: its shape is known.
        noted = read_mapping(stats).get("config") or {}
    if changed := changed_settings(noted, asked):
        raise InputError(
            f"{folder} holds an autoencoder that was trained otherwise ({changed}): give another data.root, set "
            f"autoencoder.pretrained={folder} to take it as it is, or remove that folder to train it anew"
        )


def _checkpoint(folder: Path, model: FrameAutoencoder, optimizer: Any, schedule: Any, step: int) -> None:
    state = {"vae": model.vae.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    write_torch(folder / _STATE, {**state, "step": step})


def _resume(folder: Path, model: FrameAutoencoder, optimizer: Any, schedule: Any) -> int:
    if not (folder / _STATE).is_file():
        return 0
    state = torch.load(folder / _STATE, weights_only=True)
    model.vae.load_state_dict(state["vae"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    logger.info("autoencoder training resumed at step %d", state["step"])
    return int(state["step"])


def _finish(folder: Path, model: FrameAutoencoder, pictures: Tensor, held_out: np.ndarray) -> FrameAutoencoder:
    latents = model.encode(pictures[:: max(1, len(pictures) // 4000)])
    model.mean.copy_(latents.mean(dim=(0, 2, 3)))
    model.std.copy_(latents.std(dim=(0, 2, 3)).clamp_min(1e-6))
    model.psnr = psnr(model.decode(model.encode(held_out)).numpy(), held_out)
    model.save_pretrained(folder)
    (folder / _STATE).unlink(missing_ok=True)
    logger.info("autoencoder: PSNR %.1f dB", model.psnr)
    return model
