# SPDX-License-Identifier: Apache-2.0
"""LingBot-VA's transformer, at any size, with the original's state-dict keys.

One trunk serves both streams; each has its own input embedder, time embedder and output head.

Shapes: B batch, C channels, F latent frames, H, W latent size, A action channels, N actions per frame, S tokens,
D width, G groups of tokens that share a latent frame, L text tokens.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from math import gcd
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from flashwam.system.errors import InputError
from flashwam.wam.compiling import like_a_later_block
from flashwam.wam.lingbot_va.cache import RolloutCache
from flashwam.wam.lingbot_va.cached_blocks import Trunk, cached_taps, cached_trunk
from flashwam.wam.lingbot_va.clean_past import CleanPast
from flashwam.wam.lingbot_va.compiled_blocks import CompiledTrunk, compiled_halves
from flashwam.wam.lingbot_va.kernels import kernels_for_any_length
from flashwam.wam.lingbot_va.layers import (
    ConditionEmbedder,
    Halves,
    KeyValue,
    Linear,
    TransformerBlock,
    draw_weights,
    modulated_norm,
    per_group,
)
from flashwam.wam.lingbot_va.masks import STREAM_OFFSET, PassLayout, check_backend, teacher_forced_layout
from flashwam.wam.lingbot_va.patches import action_tokens, action_untokens, patchify, unpatchify
from flashwam.wam.lingbot_va.rope import action_rotary, axis_dims, video_rotary
from flashwam.wam.session import Kept
from flashwam.wam.taps import FeatureTap

__all__ = ["Segment", "WanTransformer3DModel"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of one block of a rollout."""

    stream: str
    """"video" or "action"."""
    x: Tensor
    """[B, C, F, H, W] or [B, A, F, N, 1]."""
    timestep: Tensor
    """1000 sigma, [B, F]."""
    start: int
    """Absolute index of the first latent frame."""


class WanTransformer3DModel(ModelMixin, ConfigMixin):
    """Velocity network over video and action tokens.

    Args:
        patch_size: (1, p, q): latent rows and columns per token.
        num_attention_heads: Heads.
        attention_head_dim: Dimension of a head; its integer third must be even (20, 32, 128).
        in_channels: Channels of the video latents.
        out_channels: Channels of the video velocity.
        action_dim: Action channels A.
        text_dim: Width of the text embeddings.
        freq_dim: Width of the timestep's sinusoid.
        ffn_dim: Hidden width of the feed-forward layers.
        num_layers: Blocks.
        cross_attn_norm: Whether text attention has its affine layer norm.
        eps: Epsilon of every norm.
        rope_max_seq_len: Unused; kept for the original's configuration files.
        pos_embed_seq_len: Unused, likewise.
        attn_mode: Unused, likewise: the mask never depends on it. See `attention`.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["TransformerBlock"]
    _keys_to_ignore_on_load_unexpected: ClassVar = ["norm_added_q"]

    @register_to_config
    def __init__(
        self,
        patch_size: Sequence[int] = (1, 2, 2),
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        in_channels: int = 48,
        out_channels: int = 48,
        action_dim: int = 30,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 14336,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        attn_mode: str = "torch",
    ) -> None:
        super().__init__()
        if len(patch_size) != 3 or patch_size[0] != 1:
            raise InputError(f"patch_size must be (1, p, q): a token never spans latent frames, got {patch_size}")
        axis_dims(attention_head_dim)
        dim = num_attention_heads * attention_head_dim
        _, rows, columns = patch_size
        self.attention = "sdpa"
        self.gradient_checkpointing = False
        # A function of the blocks, not a bound method: a copy of the model must run its own.
        self._trunk: Trunk = cached_trunk
        self._halves: Halves | None = None
        self.patch_embedding_mlp = nn.Linear(in_channels * rows * columns, dim)
        self.action_embedder = nn.Linear(action_dim, dim)
        self.condition_embedder = ConditionEmbedder(dim, freq_dim=freq_dim, text_dim=text_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, ffn_dim=ffn_dim, heads=num_attention_heads, cross_attn_norm=cross_attn_norm, eps=eps)
            for _ in range(num_layers)
        )
        self.proj_out = nn.Linear(dim, out_channels * rows * columns)
        self.action_proj_out = nn.Linear(dim, action_dim)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        draw_weights(self)
        self.condition_embedder_action = deepcopy(self.condition_embedder)
        # Files of the original carry this copy though no pass uses it; frozen, it cannot trip DDP's unused check.
        self.condition_embedder_action.text_embedder.requires_grad_(False)

    def set_attention(self, backend: str) -> None:
        """Chooses the masked pass's attention: "sdpa" (dense mask) or "flex" (block mask, for GPUs)."""
        self.attention = check_backend(backend)

    def compile_training(self, **options: Any) -> None:
        """Compiles the blocks of the masked pass, once for all of them and for every kind of pass.

        Args:
            options: For `torch.compile`, such as backend="inductor".
        """
        self._halves = compiled_halves(**options)

    def set_matmul_dtype(self, dtype: torch.dtype | None) -> None:
        """Chooses the dtype of the blocks' linear products; None takes the parameters' own. See `layers.Linear`."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.matmul_dtype = dtype

    def forward(
        self,
        noisy: Mapping[str, Tensor],
        timestep: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        text: Tensor,
        *,
        chunk_frames: int,
        window: int,
        clean_timestep: Mapping[str, Tensor] | None = None,
        kept: Kept | None = None,
        tap: FeatureTap | None = None,
    ) -> dict[str, Tensor]:
        """Teacher-forced pass over noisy and clean tokens of both streams under the block-causal mask.

        Args:
            noisy: Noisy latents [B, C, F, H, W] and actions [B, A, F, N, 1]; a stream left out has no noisy tokens.
                They may be fewer frames than the clean ones: the last of them.
            timestep: 1000 sigma of the noisy tokens, [B, F] per noisy stream.
            clean: Clean latents and actions, shapes as in `noisy`, both streams.
            text: Text embeddings [B, L, text_dim]; every position is attended.
            chunk_frames: Latent frames per chunk.
            window: Reach of attention in blocks, see `mask_rule.allowed`.
            clean_timestep: 1000 sigma of the clean tokens, [B, F] per stream; 0 where absent.
            kept: Keeps the clean tokens' and the text's keys and values for further passes that differ in noisy tokens
                and their levels alone.
            tap: Takes the hidden states of the noisy video; the pass ends after its deepest block.

        Returns:
            Velocity of every noisy stream, shaped like its input, float32; nothing with a tap.

        Raises:
            RuntimeError: `kept` with gradients.
            ValueError: a tap without noisy video, or beside `kept`.
        """
        if tap is not None and ("video" not in noisy or kept is not None):
            raise ValueError(f"features are of noisy video, and nothing is kept; got noisy {sorted(noisy)}")
        if kept is not None and torch.is_grad_enabled():
            raise RuntimeError("what is kept between passes carries no gradient: leave it out or use torch.no_grad()")
        layout = self._layout(noisy, clean, chunk_frames, window)
        clean_timestep = clean_timestep or {}
        clean_tokens = {
            stream: frames * self.tokens_per_frame(stream, clean[stream])
            for stream, frames in layout.clean_frames.items()
            if frames
        }
        past, reading = None, False
        if kept is not None:
            reading = kept.value is not None and kept.value.covers(clean_tokens)
            past = kept.value if reading else CleanPast(clean_tokens)
        begin = clean["video"].shape[2] - noisy[layout.noisy[0]].shape[2]
        parts = [(stream, noisy[stream], timestep[stream], begin) for stream in layout.noisy]
        parts += [
            (stream, clean[stream][:, :, :frames], clean_timestep.get(stream), 0)
            for stream, frames in layout.clean_frames.items()
            if frames and not reading
        ]
        h, embeddings, modulation, rotary = self._embed_parts(parts, layout.group)
        embedded_text = None if reading else self.condition_embedder.text(text).to(h.dtype)

        lengths = [noisy[stream].shape[2] * self.tokens_per_frame(stream, noisy[stream]) for stream in layout.noisy]
        depth = len(self.blocks) if tap is None else tap.depth
        for index, block in zip(range(depth), self.blocks, strict=False):
            # Of the last block's clean tokens only keys and values are seen. A compiled block is like all others.
            queries = layout.noisy_tokens if index == depth - 1 and self._halves is None else None
            attend = layout.attend if queries is None and not reading else layout.attend_noisy
            seen = embedded_text
            if past is not None:
                attend = past.reading(index, attend, clean_tokens) if reading else past.filling(attend)
                seen = past.text(index, embedded_text)
            h = self._run(block, h, modulation, rotary=rotary, text=seen, attend=attend, queries=queries)
            if tap is not None:
                tap.take(index, h[:, : lengths[0]])
        if tap is not None:
            return {}
        if kept is not None:
            kept.value = past
        h = self._norm_out(h[:, : layout.noisy_tokens], torch.cat(embeddings[: len(layout.noisy)], 1))
        outputs = h.split(lengths, dim=1)
        return {
            stream: self._head(stream, part, noisy[stream]) for stream, part in zip(layout.noisy, outputs, strict=True)
        }

    def _embed_parts(
        self, parts: Sequence[tuple[str, Tensor, Tensor | None, int]], group: int
    ) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Tokens, time embeddings by part, modulations and rotary angles of parts (stream, values, levels, first
        frame)."""
        hidden, embeddings, modulations, rotaries = [], [], [], []
        for stream, x, t, start in parts:
            frames = x.shape[2]
            tokens, rotary = self._tokens(stream, x), self._rotary(stream, x, start=start)
            level = x.new_zeros(1, 1, dtype=torch.float32) if t is None else t[:, :frames].float()
            embedding, modulation = self._time(stream, level, tokens.dtype)
            repeats = tokens.shape[1] // frames // group
            hidden.append(tokens)
            embeddings.append(per_group(embedding, x.shape[0], frames, repeats))
            modulations.append(per_group(modulation, x.shape[0], frames, repeats))
            rotaries.append(rotary)
        tokens = torch.cat(hidden, 1)
        if self._halves is not None:
            tokens = like_a_later_block(tokens, self.blocks[0])
        return tokens, embeddings, torch.cat(modulations, 1), torch.cat(rotaries)

    def cached_pass(
        self,
        segments: Sequence[Segment],
        *,
        text: Sequence[KeyValue],
        cache: RolloutCache,
        velocity: bool = True,
        tap: FeatureTap | None = None,
        rotary: Tensor | None = None,
        trunk: Trunk | None = None,
    ) -> Tensor | None:
        """One pass over blocks of a rollout under a cache that `RolloutCache.open` has made ready for them.

        Every block sees the cache and the blocks before it, each within its own window, as in the masked pass.

        Args:
            segments: The opened blocks, in the cache's order.
            text: Keys and values of the text for every block that is run, from `text_key_value`.
            cache: The cache; it holds these tokens' keys and values until it is closed or reopened.
            velocity: Whether the last segment's velocity is wanted; otherwise keys and values are all that is made.
            tap: Takes the last segment's hidden states instead; the pass ends after its deepest block.
            rotary: `pass_rotary` of the segments, if it is known; their `start` is then not looked at.
            trunk: Runs the blocks; as `compile_rollout` has chosen if None.

        Returns:
            Velocity shaped like the last segment's tensor, float32; None if not wanted.
        """
        cache.begin()
        in_pass = [segments[-1], *segments[:-1]]
        per_frame = [self.tokens_per_frame(part.stream, part.x) for part in in_pass]
        group = gcd(*per_frame)
        hidden, modulations = [], []
        for part, count in zip(in_pass, per_frame, strict=True):
            tokens = self._tokens(part.stream, part.x)
            embedded, modulation = self._time(part.stream, part.timestep.float(), tokens.dtype)
            hidden.append(tokens)
            modulations.append(per_group(modulation, *modulation.shape[:2], count // group))
            if part is segments[-1]:
                embedding = per_group(embedded, *embedded.shape[:2], count // group)
        h, modulation = _joined(hidden, 1), _joined(modulations, 1)
        rotary = self.pass_rotary(segments) if rotary is None else rotary
        queries = hidden[0].shape[1] if velocity else 0
        with nullcontext() if cache.fixed_shapes else kernels_for_any_length(h.device):
            if tap is not None:
                cached_taps(self.blocks, h, modulation, rotary, text, cache, hidden[0].shape[1], tap)
                return None
            h = (trunk or self._trunk)(self.blocks, h, modulation, rotary, text, cache, queries)
        return self._head(segments[-1].stream, self._norm_out(h, embedding), segments[-1].x) if velocity else None

    def pass_rotary(self, segments: Sequence[Segment]) -> Tensor:
        """Rotations of all tokens of a `cached_pass` in its order, [S, d / 2, 2]."""
        in_pass = [segments[-1], *segments[:-1]]
        return _joined([self._rotary(part.stream, part.x, start=part.start) for part in in_pass], 0)

    def compile_rollout(self, **options: Any) -> None:
        """Compiles the blocks of `cached_pass`; worth it with a `RingCache`, whose shapes never change.

        Args:
            options: For `torch.compile`, such as backend="inductor".
        """
        self._trunk = CompiledTrunk(tuple(sorted(options.items())))

    def text_key_value(self, text: Tensor, *, depth: int | None = None) -> list[KeyValue]:
        """The first `depth` blocks' cross-attention keys and values of text [B, L, text_dim]; every block's if None."""
        embedded = self.condition_embedder.text(text).to(self.patch_embedding_mlp.weight.dtype)
        return [block.attn2.key_value(embedded) for block in self.blocks[:depth]]

    def video_grid(self, x: Tensor) -> tuple[int, int, int]:
        """Frames, rows and columns of the tokens of video [B, C, F, H, W]."""
        _, rows, columns = self.config.patch_size
        return x.shape[2], x.shape[3] // rows, x.shape[4] // columns

    def tokens_per_frame(self, stream: str, x: Tensor) -> int:
        """Tokens that one latent frame of a stream tensor takes."""
        if stream == "action":
            return x.shape[3]
        _, rows, columns = self.video_grid(x)
        return rows * columns

    def _layout(
        self, noisy: Mapping[str, Tensor], clean: Mapping[str, Tensor], chunk_frames: int, window: int
    ) -> PassLayout:
        if set(clean) != set(STREAM_OFFSET) or not noisy or not set(noisy) <= set(clean):
            raise ValueError(
                f"clean must hold {sorted(STREAM_OFFSET)} and noisy one or both of them, "
                f"got clean {sorted(clean)} and noisy {sorted(noisy)}"
            )
        frames, noisy_frames = ({x.shape[2] for x in part.values()} for part in (clean, noisy))
        if len(frames) != 1 or len(noisy_frames) != 1 or max(noisy_frames) > max(frames):
            raise ValueError(
                "every stream tensor must have the same number of latent frames, the noisy ones that or fewer; "
                f"got clean {sorted(frames)} and noisy {sorted(noisy_frames)}"
            )
        return teacher_forced_layout(
            frames.pop(),
            tokens_per_frame=tuple((stream, self.tokens_per_frame(stream, clean[stream])) for stream in STREAM_OFFSET),
            noisy=tuple(stream for stream in STREAM_OFFSET if stream in noisy),
            noisy_frames=noisy_frames.pop(),
            chunk_frames=chunk_frames,
            window=window,
            backend=self.attention,
            device=clean["video"].device,
        )

    def _run(self, block: TransformerBlock, *args: Any, **kwargs: Any) -> Tensor:
        kwargs["halves"] = self._halves
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(block, *args, use_reentrant=False, **kwargs)
        return block(*args, **kwargs)

    def _tokens(self, stream: str, x: Tensor) -> Tensor:
        """Tokens [B, S, D] of a stream tensor."""
        if stream == "action":
            tokens, embed = action_tokens(x), self.action_embedder
        else:
            _, rows, columns = self.config.patch_size
            tokens, embed = patchify(x, (rows, columns)), self.patch_embedding_mlp
        return embed(tokens.to(embed.weight.dtype))

    def _rotary(self, stream: str, x: Tensor, *, start: int) -> Tensor:
        """Rotations [S, d / 2, 2] of a stream tensor's tokens."""
        head_dim = self.config.attention_head_dim
        if stream == "action":
            return action_rotary(head_dim, x.shape[2], x.shape[3], start, x.device)
        return video_rotary(head_dim, *self.video_grid(x), start, x.device)

    def _time(self, stream: str, timestep: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        embedder = self.condition_embedder_action if stream == "action" else self.condition_embedder
        return embedder.time(timestep, dtype)

    def _norm_out(self, h: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table.unsqueeze(0) + embedding.unsqueeze(2)).unbind(2)
        return modulated_norm(h, shift, scale, self.config.eps)

    def _head(self, stream: str, h: Tensor, like: Tensor) -> Tensor:
        if stream == "action":
            return action_untokens(self.action_proj_out(h).float(), like.shape[2])
        _, rows, columns = self.config.patch_size
        return unpatchify(self.proj_out(h).float(), self.video_grid(like), (rows, columns))


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
