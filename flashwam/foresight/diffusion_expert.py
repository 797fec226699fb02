# SPDX-License-Identifier: Apache-2.0
"""A small diffusion transformer over one chunk's actions that looks at tokens of a foresight.

Preconditioned as in EDM, it is a velocity network of the flow path, see `flashwam.core.edm`.
Letters: B samples, A action channels, F latent frames, N actions a frame, K = F N actions, T tokens seen, D width, L
text tokens.
"""

import math

import torch
from torch import Tensor, nn

from flashwam.core.edm import edm_input_scale, edm_noise_input, edm_velocity
from flashwam.core.written import mean_of_written
from flashwam.foresight.layers import Attention, feed_forward, initialise

__all__ = ["DiffusionExpert"]


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and feed-forward over the goal and what is seen."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout=dropout)
        self.feed_forward = feed_forward(width, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> the same."""
        x = x + self.attention(self.norm_attention(x))
        return x + self.feed_forward(self.norm_feed(x))


class DecoderBlock(nn.Module):
    """Causal self-attention over actions, a look at the encoder's tokens, a feed-forward; modulated by the level."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=affine) for affine in (False, True, False))
        self.attention = Attention(width, heads, dropout=dropout)
        self.look = Attention(width, heads, dropout=dropout)
        self.feed_forward = feed_forward(width, dropout=dropout)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """Actions [B, K, D] at embedded levels [B, K, D] over context [B, T, D]; returns [B, K, D]."""
        shift, scale, gate, shift_feed, scale_feed, gate_feed = self.modulation(level).chunk(6, -1)
        x = x + gate * self.attention(self.norms[0](x) * (1 + scale) + shift, causal=True)
        x = x + self.look(self.norms[1](x), context)
        return x + gate_feed * self.feed_forward(self.norms[2](x) * (1 + scale_feed) + shift_feed)


class DiffusionExpert(nn.Module):
    """Velocities of a chunk's noisy actions.

    Unlike the published network, every action sees all of the encoder's tokens and has a place in the chunk.

    Args:
        actions: A.
        frames: F.
        per_frame: N.
        token_channels: Channels of the tokens that it looks at.
        text: Channels of the text embedding.
        width: D.
        encoder: Blocks over the goal and the tokens; they run once a chunk.
        decoder: Blocks over the actions; they run once a step.
        heads: Attention heads.
        dropout: In attention.
        sigma_data: Standard deviation of normalised actions.
        s_range: (s_min, s_max) in which the level is told apart, see `edm_noise_input`.
    """

    def __init__(
        self,
        actions: int,
        frames: int,
        per_frame: int,
        *,
        token_channels: int,
        text: int,
        width: int = 384,
        encoder: int = 4,
        decoder: int = 4,
        heads: int = 8,
        dropout: float = 0.1,
        sigma_data: float = 0.5,
        s_range: tuple[float, float] = (1e-3, 80.0),
    ) -> None:
        super().__init__()
        self.sigma_data, self.s_range = sigma_data, tuple(s_range)
        self.goal = nn.Sequential(nn.Linear(text, width), nn.GELU(), nn.Linear(width, width))
        self.look = nn.Linear(token_channels, width)
        self.encoder = nn.ModuleList(EncoderBlock(width, heads, dropout=dropout) for _ in range(encoder))
        self.norm_seen = nn.LayerNorm(width)
        self.proj_in = nn.Linear(actions, width)
        self.positions = nn.Parameter(torch.empty(frames * per_frame, width))
        self.level = nn.Sequential(nn.Linear(width, width), nn.Mish(), nn.Linear(width, width), nn.SiLU())
        self.decoder = nn.ModuleList(DecoderBlock(width, heads, dropout=dropout) for _ in range(decoder))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, actions)
        initialise(self)
        nn.init.normal_(self.positions, std=0.02)
        for block in self.decoder:
            # The gates open as they learn: at first every action is read off what it looks at.
            nn.init.zeros_(block.modulation.weight)
        nn.init.zeros_(self.proj_out.weight)

    def encode(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Embeds the context: tokens [B, T, channels] and the mean of text [B, L, channels] -> [B, 1 + T, D].

        Rows of zeros in the text are padding and do not count.
        """
        dtype = self.look.weight.dtype
        goal = self.goal(mean_of_written(text.to(dtype)))[:, None]
        x = torch.cat([goal, self.look(tokens.to(dtype))], 1)
        for block in self.encoder:
            x = block(x)
        return self.norm_seen(x)

    def forward(self, noisy: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """The flow velocity of noisy actions.

        Args:
            noisy: [B, A, F, N, 1].
            sigma: [B, F].
            context: From `encode`.

        Returns:
            eps - x0, shaped like `noisy`, float32 or better.
        """
        frames, per_frame = noisy.shape[2:4]
        # Coefficients in double precision: at small levels the network's term is a difference of near numbers.
        level = sigma.double()[:, None, :, None, None]
        shown = (noisy * edm_input_scale(level, sigma_data=self.sigma_data)).to(self.proj_in.weight.dtype)
        x = self.proj_in(shown[..., 0].flatten(2).transpose(1, 2)) + self.positions
        embedded = self.level(self._sinusoid(sigma)).repeat_interleave(per_frame, 1)
        for block in self.decoder:
            x = block(x, embedded, context)
        output = self.proj_out(self.norm_out(x)).transpose(1, 2).unflatten(2, (frames, per_frame))[..., None]
        velocity = edm_velocity(noisy, output, level, sigma_data=self.sigma_data)
        return velocity.to(torch.promote_types(noisy.dtype, torch.float32))

    def _sinusoid(self, sigma: Tensor) -> Tensor:
        """Of c_noise [B, F], whose range is about [-1.7, 1.1]: [B, F, D]."""
        s_min, s_max = self.s_range
        level = 1000 * edm_noise_input(sigma.double(), s_min=s_min, s_max=s_max)
        half = self.positions.shape[1] // 2
        rates = torch.exp(torch.arange(half, device=sigma.device) * (-math.log(10_000) / half))
        angle = level[..., None] * rates
        return torch.cat([angle.sin(), angle.cos()], -1).to(self.positions.dtype)
