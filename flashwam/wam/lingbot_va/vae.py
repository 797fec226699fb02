# SPDX-License-Identifier: Apache-2.0
"""The video autoencoder of Wan2.2, encoded picture by picture as a robot sees them.

diffusers' autoencoders, which bring transformers and peft along, are imported when one is loaded: a family that is
planned or trained on latents has none.

Letters: B cameras, T pictures, C latent channels, F latent frames, h, w latent size (a sixteenth of the pictures').
"""

from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flashwam.core.checks import check_statistics
from flashwam.data.encoders import to_pictures
from flashwam.system.errors import InputError
from flashwam.system.json_file import built_from
from flashwam.system.paths import user_path
from flashwam.wam.autoencoders import load_autoencoder
from flashwam.wam.encoder_passes import EncoderPasses

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

__all__ = ["LATENTS_MEAN", "LATENTS_STD", "PICTURES_PER_FRAME", "WAN22_CONFIG", "VaeStream", "WanVae"]

PICTURES_PER_FRAME = 4
"""Pictures that a latent frame spans; the very first one spans 1."""
_GROWING = 2
"""Latent frames after which a convolution's past, two of its inputs, is as long as it gets."""

# fmt: off
LATENTS_MEAN = (
    -.2289, -.0052, -.1323, -.2339, -.2799, .0174, .1838, .1557, -.1382, .0542, .2813, .0891, .1570, -.0098, .0375,
    -.1825, -.2246, -.1207, -.0698, .5109, .2665, -.2108, -.2158, .2502, -.2055, -.0322, .1109, .1567, -.0729, .0899,
    -.2799, -.1230, -.0313, -.1649, .0117, .0723, -.2839, -.2083, -.0520, .3748, .0152, .1957, .1433, -.2944, .3573,
    -.0548, -.1681, -.0667,
)
"""Mean of every latent channel of Wan2.2's 48-channel autoencoder, as published."""
LATENTS_STD = (
    .4765, 1.0364, .4514, 1.1677, .5313, .4990, .4818, .5013, .8158, 1.0344, .5894, 1.0901, .6885, .6165, .8454,
    .4978, .5759, .3523, .7135, .6804, .5833, 1.4146, .8986, .5659, .7069, .5338, .4889, .4917, .4069, .4999,
    .6866, .4093, .5709, .6065, .6415, .4944, .5726, 1.2042, .5458, 1.6887, .3971, 1.0600, .3943, .5537, .5444,
    .4089, .7468, .7744,
)
"""Standard deviation of every latent channel, as published."""
# fmt: on

WAN22_CONFIG = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "latents_mean": list(LATENTS_MEAN),
    "latents_std": list(LATENTS_STD),
}
"""Keyword arguments of diffusers' `AutoencoderKLWan` for the released autoencoder."""


class WanVae(nn.Module):
    """diffusers' autoencoder with normalised latents.

    Args:
        model: Its configuration carries the latents' statistics. A model of the released size must carry the
            published ones: the transformers were trained on latents scaled by them.

    Raises:
        ValueError: The statistics do not fit.
    """

    def __init__(self, model: "AutoencoderKLWan") -> None:
        super().__init__()
        config = model.config
        mean, std = tuple(config.latents_mean), tuple(config.latents_std)
        if not len(mean) == len(std) == config.z_dim:
            raise InputError(
                f"the autoencoder has {config.z_dim} latent channels but statistics for {len(mean)} and {len(std)}: "
                "its config.json must carry latents_mean and latents_std, see WAN22_CONFIG"
            )
        check_statistics(mean, std, channels=len(mean), what="latents_")
        published = all(config[key] == WAN22_CONFIG[key] for key in ("base_dim", "z_dim"))
        for name, own, known in (("mean", mean, LATENTS_MEAN), ("std", std, LATENTS_STD)):
            if published and max(abs(a - b) for a, b in zip(own, known, strict=True)) > 1e-4:
                raise InputError(
                    f"latents_{name} in the autoencoder's config.json is not the published one, on which the released "
                    "transformers depend; take config.json from the released checkpoint"
                )
        self.model = model.eval().requires_grad_(False)
        shape = (1, -1, 1, 1, 1)
        self._mean, self._std = torch.tensor(mean).view(shape), torch.tensor(std).view(shape)
        # No buffers, which a change of the model's dtype would round.
        self._statistics: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.passes = EncoderPasses(self.model.encoder, _over_past(self.model.encoder))

    def choose_encoder(self, way: str, **options: Any) -> None:
        """Chooses how episodes that are opened from now on are encoded, once their past has its final shape.

        Args:
            way: See `EncoderPasses`.
            options: Of it.

        Raises:
            ValueError: The way is unknown.
        """
        self.passes = EncoderPasses(self.model.encoder, _over_past(self.model.encoder), way, **options)

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.model.parameters()).device

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return int(self.model.config.z_dim)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> "WanVae":
        """Loads ``vae/`` of a checkpoint, see `load_autoencoder`."""
        from diffusers import AutoencoderKLWan

        model = load_autoencoder(AutoencoderKLWan, folder, dtype=dtype, device=device)
        return built_from(user_path(folder) / "config.json", lambda: cls(model))

    @classmethod
    def blank(cls, *, dtype: torch.dtype, device: torch.device | str, **changes: Any) -> "WanVae":
        """One of the released size, but for some keywords of `WAN22_CONFIG`, with fresh weights."""
        from diffusers import AutoencoderKLWan

        with torch.device(device):
            model = AutoencoderKLWan(**{**WAN22_CONFIG, **changes})
        return cls(nn.Module.to(model, dtype=dtype))

    def open(self) -> "VaeStream":
        """A new past for pictures that come one after the other."""
        self.passes.begin()
        return VaeStream(self)

    def encode(self, pixels: Tensor) -> Tensor:
        """Whole clips [B, 3, 1 + 4 k, rows, columns] in [-1, 1] -> latents [B, C, 1 + k, h, w]."""
        return self.open().encode(pixels)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, F, h, w] from the first frame on -> uint8 pictures [B, 4 F - 3, rows, columns, 3]."""
        weight = next(self.model.parameters())
        raw = latents.float().cpu() * self._std + self._mean
        return to_pictures(self.model.decode(raw.to(weight), return_dict=False)[0])

    def normalised(self, mean: Tensor) -> Tensor:
        """The encoder's mean [B, C, F, h, w], scaled to the statistics in float32, in the dtype it came."""
        if mean.device not in self._statistics:
            self._statistics[mean.device] = (self._mean.to(mean.device), self._std.to(mean.device))
        centre, scale = self._statistics[mean.device]
        return ((mean.float() - centre) / scale).to(mean.dtype)


def _over_past(encoder: nn.Module) -> Callable[..., Any]:
    """The encoder as a function of pictures and the convolutions' past, to latents and what is the past then."""

    def encode(pictures: Tensor, *past: Tensor | None) -> tuple[Tensor | None, ...]:
        held = list(past)
        return (encoder(pictures, feat_cache=held, feat_idx=[0]), *held)

    return encode


class VaeStream:
    """Encodes one picture, then any multiples of four, as one long clip would be.

    The convolutions' past is kept between calls, where the weights are. A call that fails leaves it as it was.

    Args:
        vae: The weights; several streams share them.
    """

    def __init__(self, vae: WanVae) -> None:
        self._vae = vae
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

        convolutions = sum(isinstance(module, WanCausalConv3d) for module in vae.model.encoder.modules())
        self._past: list[Tensor | None] = [None] * convolutions
        self.frames = 0
        """Latent frames so far."""

    def fork(self) -> "VaeStream":
        """A stream with the same past, which goes its own way from here."""
        other = copy(self)
        other._past = list(self._past)
        return other

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encodes what was seen since the last call.

        Args:
            pixels: [B, 3, T, rows, columns] in [-1, 1]; T = 1 + 4 k in the first call, 4 k in later ones.

        Returns:
            Normalised latents [B, C, F, h, w] in the autoencoder's dtype; F = 1 + k, then k.

        Raises:
            ValueError: For another T.
        """
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        count = pixels.shape[2]
        single = 0 if self.frames else 1
        if count < 1 or (count - single) % PICTURES_PER_FRAME:
            expected = "a multiple of 4" if self.frames else "1, or 1 and a multiple of 4 more,"
            raise ValueError(f"expected {expected} pictures, got {count}: a latent frame spans 4, the very first one 1")
        model = self._vae.model
        x = pixels.to(next(model.parameters())).contiguous()
        if model.config.patch_size is not None:
            x = patchify(x, model.config.patch_size)
        past = list(self._past)
        parts = [x[:, :, :single]] if single else []
        parts += x[:, :, single:].split(PICTURES_PER_FRAME, 2) if count > single else []
        encoded: list[Tensor] = []
        for part in parts:
            if self._vae.passes.way == "plain" or self.frames + len(encoded) < _GROWING:
                # In place, so that nothing of the past is there twice.
                encoded.append(model.encoder(part, feat_cache=past, feat_idx=[0]))
            else:
                # However many pictures came at once, so that they are compiled for one layout.
                latents, *past = self._vae.passes(part.contiguous(), *past)
                encoded.append(latents)
        mean = model.quant_conv(torch.cat(encoded, 2))[:, : self._vae.channels]
        self._past = past
        self.frames += mean.shape[2]
        return self._vae.normalised(mean)
