# SPDX-License-Identifier: Apache-2.0
"""Settings of the adapter beside the transformer's own configuration."""

from dataclasses import dataclass
from pathlib import Path

from flashwam.system.errors import InputError
from flashwam.wam.wam_file import load_config, save_config

__all__ = ["LingBotConfig"]

FAMILY = "lingbot_va"
ROLLOUTS = ("dynamic", "static", "compiled", "graphed")
MATMUL_DTYPES = (None, "float32", "bfloat16")
EVICTIONS = ("mask", "permanent")


def check_eviction(name: str) -> str:
    """Returns `name`, or says which there are."""
    if name not in EVICTIONS:
        raise InputError(f"eviction must be one of {', '.join(EVICTIONS)}; got {name!r}")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class LingBotConfig:
    """Shape of a rollout; kept in ``wam.json`` beside ``transformer/``.

    Args:
        latent_size: Rows and columns of the video latents (before patches).
        chunk_frames: Latent frames drawn at a time.
        actions_per_frame: Controls N per latent frame.
        window_chunks: Reach of attention, counted as the original's ``window_size`` is: in blocks, two to a chunk (its
            video, its actions). Block q sees block k where abs(q - k) <= window_chunks. The original's cache has room
            for ``attn_window`` blocks, the one in flight among them, so it reaches ``attn_window - 1``: what presets
            and recipes say, see docs/lingbot_va.md.
        eviction: What a block still sees once the window is full. "mask": whatever is in its reach, which is what the
            training mask shows. "permanent": what the original's cache holds, where the block that some pass had to
            push out stays out. Drawing a chunk's actions pushes out the last block in its video's reach, so the real
            video that then replaces the imagined one reaches window_chunks - 1 blocks. Released checkpoints and their
            students run so.
        matmul_dtype: "bfloat16" rounds the blocks' linear products, see `layers.Linear`; null takes the parameters'
            own dtype.
        used_channels: Action channels a robot has; the others are zero wherever the network meets them, as they were
            in training. null: all.
    """

    latent_size: tuple[int, int]
    chunk_frames: int
    actions_per_frame: int
    window_chunks: int
    eviction: str = "mask"
    matmul_dtype: str | None = None
    rollout: str = "dynamic"
    used_channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "latent_size", tuple(self.latent_size))
        if len(self.latent_size) != 2 or min(self.latent_size) < 1:
            raise InputError(f"latent_size must be two positive numbers (rows, columns), got {self.latent_size}")
        for name in ("chunk_frames", "actions_per_frame", "window_chunks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_eviction(self.eviction)
        if self.matmul_dtype not in MATMUL_DTYPES:
            raise InputError(f"matmul_dtype must be one of {MATMUL_DTYPES}, got {self.matmul_dtype!r}")
        if self.used_channels is not None:
            object.__setattr__(self, "used_channels", tuple(sorted(self.used_channels)))
            if len(set(self.used_channels)) != len(self.used_channels) or not all(c >= 0 for c in self.used_channels):
                raise InputError(f"used_channels must be distinct action channels, got {self.used_channels}")

        if self.rollout not in ROLLOUTS:
            raise InputError(f"rollout must be one of {', '.join(ROLLOUTS)}; got {self.rollout!r}")

    def save(self, folder: str | Path) -> None:
        """Writes ``wam.json`` into a folder."""
        save_config(folder, self, family=FAMILY)

    @classmethod
    def load(cls, folder: str | Path) -> "LingBotConfig":
        """Reads ``wam.json`` from a folder."""
        missing = (
            f"it is not known how {folder} is run: name a preset, such as "
            "preset='robotwin', or write the file with LingBotConfig(latent_size=..., chunk_frames=..., "
            "actions_per_frame=..., window_chunks=..., eviction='permanent').save(folder)"
        )
        return load_config(folder, cls, family=FAMILY, missing=missing)
