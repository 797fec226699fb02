# SPDX-License-Identifier: Apache-2.0
"""Layers of LingBot-VA's transformer: condition embedder, attention, block.

Shapes: B batch, S tokens, D width, G groups of S / G consecutive tokens that share a latent frame, L text tokens.

Modulation is computed per latent frame and broadcast to tokens through a [B, G, S / G, D] view, so it is never copied
per token. It stays in float32 whatever the parameters' dtype.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional

from flashwam.wam.joined_linear import joined
from flashwam.wam.linear_gelu import linear_gelu, runs_inside
from flashwam.wam.lingbot_va.rope import apply_rotary

__all__ = [
    "APART",
    "Attention",
    "ConditionEmbedder",
    "FeedForward",
    "Fused",
    "Halves",
    "Linear",
    "TransformerBlock",
    "draw_weights",
    "modulate",
    "modulated_norm",
    "per_group",
]

KeyValue = tuple[Tensor, Tensor]


def per_group(x: Tensor, batch: int, frames: int, repeats: int) -> Tensor:
    """Repeats per-frame values [B or 1, F or 1, ...] to groups, [B, F * repeats, ...]."""
    return x.unsqueeze(2).expand(batch, frames, repeats, *x.shape[2:]).flatten(1, 2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift for x [B, S, D] and modulation [B, G, D]."""
    groups = x.unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift.unsqueeze(2), groups, (1 + scale).unsqueeze(2)).flatten(1, 2)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Modulated layer norm without affine parameters; [B, S, D] in, the same shape and dtype out."""
    return modulate(functional.layer_norm(x.float(), x.shape[-1:], eps=eps), shift, scale).type_as(x)


def _add_gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """x + gate * update for x, update [B, S, D] and gate [B, G, D]."""
    groups = (gate.shape[1], -1)
    x32, update32 = x.float().unflatten(1, groups), update.float().unflatten(1, groups)
    return torch.addcmul(x32, update32, gate.unsqueeze(2)).flatten(1, 2).type_as(x)


class Linear(nn.Linear):
    """Linear layer that may multiply in another dtype than its parameters'.

    Only the product is rounded; norms, rotations, attention and the residual stream stay as they are. On a CPU with
    bfloat16 instructions this halves the cost of a small model's training step, where autocast, which also rounds
    attention, slows it down.
    """

    matmul_dtype: torch.dtype | None = None
    rounded: bool = False
    """True if the result stays as it was multiplied, for a following layer that multiplies alike."""

    def forward(self, x: Tensor) -> Tensor:
        """Projects x [..., in] to [..., out] in the dtype of x, or as multiplied where `rounded`."""
        dtype = self.matmul_dtype
        if dtype is None:
            product = functional.linear(x, self.weight, self.bias)
        else:
            product = functional.linear(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))
        return product if self.rounded else product.to(x.dtype)


class FeedForward(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        proj = nn.Module()
        proj.proj = Linear(dim, inner_dim)
        proj.proj.rounded = True
        self.net = nn.ModuleList([proj, nn.Identity(), Linear(inner_dim, dim)])

    def forward(self, x: Tensor, *, inside: bool = False) -> Tensor:
        """Maps [B, S, D] to [B, S, D].

        Args:
            x: Hidden states.
            inside: Whether the GELU is computed in the first product, as `gelu_inside` allows.
        """
        up = self.net[0].proj
        # Through the layers' own calls, so that what wraps a layer takes part.
        inner = linear_gelu(x, up.weight, up.bias) if inside else functional.gelu(up(x), approximate="tanh")
        return self.net[2](inner).to(x.dtype)

    @property
    def gelu_inside(self) -> bool:
        """True if the device computes the GELU in a plain product of 16-bit numbers."""
        up = self.net[0].proj
        return type(up) is Linear and up.matmul_dtype is None and runs_inside(up.weight.device, up.weight.dtype)


class ConditionEmbedder(nn.Module):
    """Embeds noise levels (per latent frame) and text."""

    def __init__(self, dim: int, *, freq_dim: int, text_dim: int) -> None:
        super().__init__()
        self.timesteps_proj = Timesteps(freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(in_channels=freq_dim, time_embed_dim=dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")

    def time(self, timestep: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Embeds timesteps.

        Args:
            timestep: 1000 sigma, float32 [B, F].
            dtype: Dtype of the hidden states.

        Returns:
            The embedding [B, F, D] for the output norm, and the blocks' modulation [B, F, 6, D].
        """
        sinusoid = self.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
        embedding = self.time_embedder(sinusoid.to(self.time_embedder.linear_1.weight.dtype)).to(dtype)
        hidden = functional.silu(embedding).to(self.time_proj.weight.dtype)
        return embedding, self.time_proj(hidden).unflatten(-1, (6, -1))

    def text(self, text: Tensor) -> Tensor:
        """Projects text embeddings [B, L, text_dim] to [B, L, D]."""
        return self.text_embedder(text.to(self.text_embedder.linear_1.weight.dtype))


class Attention(nn.Module):
    """Multi-head attention with query and key norms over all heads together."""

    def __init__(self, dim: int, heads: int, *, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(dim, dim)
        self.to_k = Linear(dim, dim)
        self.to_v = Linear(dim, dim)
        self.to_out = nn.ModuleList([Linear(dim, dim), nn.Identity()])
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)

    def joined(self) -> nn.Module | None:
        """The projections to queries, keys and values as one layer, where they can be joined; see `joined_linear`."""
        return joined([self.to_q, self.to_k, self.to_v])

    def project(
        self, x: Tensor, rotary: Tensor, queries: int | None = None, *, together: nn.Module | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, of the first so many tokens, keys and values of x [B, S, D] as [B, heads, S, d] each.

        Args:
            x: Hidden states.
            rotary: Rotations of queries and keys.
            queries: All by default.
            together: From `joined`; taken where queries are those of all tokens.
        """
        if queries is not None and queries < x.shape[1]:
            return self.query(x[:, :queries], rotary[:queries]), *self.key_value(x, rotary)
        if together is None:
            return self.query(x, rotary), *self.key_value(x, rotary)
        q, k, v = together(x).chunk(3, -1)
        return self._heads(self.norm_q(q), rotary), self._heads(self.norm_k(k), rotary), self._heads(v, None)

    def query(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Queries of x [B, S, D] as [B, heads, S, d]."""
        return self._heads(self.norm_q(self.to_q(x)), rotary)

    def key_value(self, x: Tensor, rotary: Tensor | None = None) -> KeyValue:
        """Keys (rotated) and values of x [B, S, D] as [B, heads, S, d] each."""
        return self._heads(self.norm_k(self.to_k(x)), rotary), self._heads(self.to_v(x), None)

    def out(self, attended: Tensor) -> Tensor:
        """Projects attended values [B, heads, S, d] to [B, S, D]."""
        return self.to_out[0](attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, rotary: Tensor | None) -> Tensor:
        x = x.unflatten(-1, (self.heads, -1))
        return (x if rotary is None else apply_rotary(x, rotary)).transpose(1, 2)


class Fused(NamedTuple):
    """Products of a block that a recorded rollout computes with others or with what follows.

    Args:
        together: The projections to queries, keys and values as one.
        gelu_inside: Whether the GELU is computed in the feed-forward's first product.
    """

    together: nn.Module | None = None
    gelu_inside: bool = False


class Halves(NamedTuple):
    """A block's work before and after its self-attention, as two functions of the block and of tensors.

    Args:
        project: (block, x, modulation, rotary, queries) -> queries, keys and values.
        finish: (block, x, modulation, attended, text, or its keys and values) -> hidden states.
    """

    project: Callable[..., tuple[Tensor, Tensor, Tensor]]
    finish: Callable[..., Tensor]


APART = Fused()
"""Nothing fused, as wherever a gradient is wanted or layers are wrapped."""


class TransformerBlock(nn.Module):
    """Modulated self-attention, text cross-attention, modulated feed-forward."""

    def __init__(self, dim: int, *, ffn_dim: int, heads: int, cross_attn_norm: bool, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.attn1 = Attention(dim, heads, eps=eps)
        self.attn2 = Attention(dim, heads, eps=eps)
        self.norm2 = nn.LayerNorm(dim, eps=eps) if cross_attn_norm else nn.Identity()
        self.ffn = FeedForward(dim, ffn_dim)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        *,
        rotary: Tensor,
        text: Tensor | KeyValue | Callable[[Attention], KeyValue],
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        queries: int | None = None,
        halves: Halves | None = None,
        fused: Fused = APART,
    ) -> Tensor:
        """Runs the block.

        Args:
            x: Hidden states, [B, S, D].
            modulation: Time modulation per group, [B, G, 6, D].
            rotary: Cosines and sines of the rotations, [S, d / 2, 2].
            text: Embedded text [B, L, D], or its keys and values from ``attn2.key_value``, or what asks ``attn2`` for
                them: parameters of a sharded block are there in its forward alone.
            attend: Self-attention of queries over keys and values, [B, heads, S, d] each.
            queries: Update only the first so many tokens; the rest give keys and values alone. All by default.
            halves: Compute what is around `attend` in the block's place, as `compiled_blocks.compiled_halves` do.
            fused: From `fuse`; not with `halves`.

        Returns:
            Hidden states, [B, queries, D].
        """
        if halves is not None:
            wanted = x.shape[1] if queries is None else queries
            attended = attend(*halves.project(self, x, modulation, rotary, wanted))
            return halves.finish(self, x, modulation, attended, text(self.attn2) if callable(text) else text)
        table = self.modulation_table(modulation)
        attended = attend(*self.project(x, table, rotary, queries, together=fused.together))
        if isinstance(text, Tensor):
            text = self.attn2.key_value(text)
        text_k, text_v = text(self.attn2) if callable(text) else text
        return self.finish(x, table, attended, text_k, text_v, gelu_inside=fused.gelu_inside)

    def fuse(self) -> Fused:
        """Joins what can be computed together on the weights' device, for as long as they stay there."""
        return Fused(self.attn1.joined(), self.ffn.gelu_inside)

    def modulation_table(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of self-attention per group, then those of the feed-forward, float32 [B, G, D] each."""
        return (self.scale_shift_table.unsqueeze(0).float() + modulation.float()).unbind(2)

    def project(
        self,
        x: Tensor,
        table: tuple[Tensor, ...],
        rotary: Tensor,
        queries: int | None = None,
        *,
        together: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The block down to its self-attention: queries, of the first so many tokens, and all keys and values.

        Arguments as in `forward`, but `table` from `modulation_table`, and `together` as in `Fused`.
        """
        shift, scale = table[:2]
        return self.attn1.project(modulated_norm(x, shift, scale, self.eps), rotary, queries, together=together)

    def finish(
        self,
        x: Tensor,
        table: tuple[Tensor, ...],
        attended: Tensor,
        text_k: Tensor,
        text_v: Tensor,
        *,
        gelu_inside: bool = False,
    ) -> Tensor:
        """The block from its self-attention on, for the leading tokens that have `attended` [B, heads, queries, d]."""
        gate, shift_ff, scale_ff, gate_ff = table[2:]
        queries = attended.shape[2]
        if queries < x.shape[1]:
            groups = queries * gate.shape[1] // x.shape[1]
            x = x[:, :queries]
            gate, shift_ff, scale_ff, gate_ff = (m[:, :groups] for m in table[2:])
        x = _add_gated(x, self.attn1.out(attended), gate)
        seen = functional.scaled_dot_product_attention(self.attn2.query(self._norm2(x)), text_k, text_v)
        x = x + self.attn2.out(seen)
        inner = self.ffn(modulated_norm(x, shift_ff, scale_ff, self.eps), inside=gelu_inside)
        return _add_gated(x, inner, gate_ff)

    def key_value(self, x: Tensor, modulation: Tensor, *, rotary: Tensor) -> KeyValue:
        """Self-attention's keys and values of x alone: all that a cache needs of the last block."""
        table = self.scale_shift_table[:, :2].unsqueeze(0).float() + modulation[:, :, :2].float()
        return self.attn1.key_value(modulated_norm(x, table[:, :, 0], table[:, :, 1], self.eps), rotary)

    def _norm2(self, x: Tensor) -> Tensor:
        if isinstance(self.norm2, nn.Identity):
            return x
        weight, bias = self.norm2.weight.float(), self.norm2.bias.float()
        return functional.layer_norm(x.float(), x.shape[-1:], weight, bias, self.eps).type_as(x)


@torch.no_grad()
def draw_weights(network: nn.Module) -> None:
    """Draws the weights of a network of these layers, for training from scratch; loading replaces them all."""
    if network.scale_shift_table.is_meta:
        return
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            if name.startswith("blocks") or name in ("patch_embedding_mlp", "action_embedder"):
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
