# SPDX-License-Identifier: Apache-2.0
"""A stock CogVideoX transformer with action tokens at the end of its video tokens.

Letters: B samples, F latent frames, C channels, H and W latent size, K action tokens, A action channels, L text
tokens, D text width.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn

from flashwam.system.errors import InputError
from flashwam.wam.cogvideox.action import ActionModule
from flashwam.wam.cogvideox.config import ROPE_MODES
from flashwam.wam.cogvideox.presets import check_version
from flashwam.wam.cogvideox.rope import rotary_table
from flashwam.wam.cogvideox.timegroups import group_times, take_time_groups
from flashwam.wam.compiling import compiled, like_a_later_block
from flashwam.wam.taps import FeatureTap

__all__ = ["CogVideoXActionNetwork", "run_block"]

RunBlock = Callable[..., tuple[Tensor, Tensor]]


class CogVideoXActionNetwork(nn.Module):
    """One sequence of text, video and actions through the transformer's own blocks.

    Actions are modulated as video is and not rotated. Without action tokens the result is the transformer's own, bit
    for bit. A learned table of positions, which diffusers keeps as a buffer, becomes a parameter, so that optimisers
    and averages see it.

    Args:
        transformer: CogVideoX 1.0, of any size; taken over, its keys as they are.
        action: Its companion for actions.
        rope_mode: "integer" or "resize_crop", see `CogVideoXConfig`.

    Raises:
        ValueError: The two do not fit, or the transformer is of version 1.5.
    """

    def __init__(
        self, transformer: CogVideoXTransformer3DModel, action: ActionModule, *, rope_mode: str = "integer"
    ) -> None:
        super().__init__()
        config = transformer.config
        check_version(config)
        own = (config.num_attention_heads * config.attention_head_dim, config.time_embed_dim)
        if own != (action.config.width, action.config.time_dim):
            raise InputError(
                f"the action module is made for width and time width {action.config.width, action.config.time_dim}; "
                f"the transformer has {own}"
            )
        if config.use_rotary_positional_embeddings and config.attention_head_dim % 16:
            raise InputError(f"rotary embedding needs heads of a multiple of 16, got {config.attention_head_dim}")
        if rope_mode not in ROPE_MODES:
            raise InputError(f"rope_mode must be one of {ROPE_MODES}, got {rope_mode!r}")
        self.transformer = transformer
        self.action = action
        self.rope_mode = rope_mode
        # A function of the block, not a method: a copy of the network must run its own.
        self._run: RunBlock = run_block
        for block in transformer.transformer_blocks:
            take_time_groups(block)
        if config.use_learned_positional_embeddings:
            table = transformer.patch_embed.pos_embedding
            if not isinstance(table, nn.Parameter):
                del transformer.patch_embed.pos_embedding
                transformer.patch_embed.pos_embedding = nn.Parameter(table)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and so of what goes in."""
        return self.transformer.proj_out.weight.dtype

    def compile_training(self, **options: Any) -> None:
        """Compiles the blocks, once for all of them and for every kind of pass.

        Args:
            options: For `torch.compile`, such as backend="inductor".
        """
        self._run = compiled(run_block, **options)

    def forward(
        self,
        video: Tensor,
        actions: Tensor,
        text: Tensor,
        timestep: Tensor,
        *,
        text_timestep: Tensor | None = None,
        first_timestep: Tensor | None = None,
        action_timestep: Tensor | None = None,
        robot: Tensor | None = None,
        tap: FeatureTap | None = None,
        run: RunBlock | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """Outputs for video and actions, in the parametrisation the network was trained in.

        Args:
            video: [B, F, C_in, H, W].
            actions: [B, k, A] with k <= K; k may be 0.
            text: [B, L, D].
            timestep: Of the video, [B], integers or real numbers.
            text_timestep: Of the text; the video's if None.
            first_timestep: Of the first frame; the video's if None.
            action_timestep: Of the actions; the video's if None.
            robot: Ids [B], where the action module has an embedding for them.
            tap: Takes the hidden states of the video; the pass ends after its deepest block.
            run: Runs a block, such as a compiled `run_block`; as training does if None.

        Returns:
            ([B, F, C, H, W], [B, k, A]); None with a tap.

        Raises:
            ValueError: The text's length or the video's size is not what the table of positions is made for.
        """
        net = self.transformer
        self._check(video, text)
        batch, frames, _, height, width = video.shape
        patch = net.config.patch_size
        grid = self.video_grid(video)
        hidden = net.embedding_dropout(net.patch_embed(text, video))
        encoded, hidden = hidden[:, : text.shape[1]], hidden[:, text.shape[1] :]
        video_tokens, first_tokens = hidden.shape[1], grid[1] * grid[2]
        hidden = torch.cat([hidden, self.action.embed(actions, robot)], dim=1)

        time = self._time(timestep, video.dtype)
        text_time, first_time, action_time = (
            time if other is None else self._time(other, video.dtype)
            for other in (text_timestep, first_timestep, action_timestep)
        )
        video_spans = [(first_tokens, first_time), (video_tokens - first_tokens, time)]
        times = group_times(text_time, [*video_spans, (actions.shape[1], action_time)])
        rotary = self._rotary(grid, actions.shape[1], hidden.device)
        depth = len(net.transformer_blocks) if tap is None else tap.depth
        run = run or self._run
        if run is not run_block:
            hidden, encoded = (like_a_later_block(x, net.transformer_blocks[0]) for x in (hidden, encoded))
        for index, block in zip(range(depth), net.transformer_blocks, strict=False):
            if torch.is_grad_enabled() and net.gradient_checkpointing:
                hidden, encoded = net._gradient_checkpointing_func(run, block, hidden, encoded, times, rotary)
            else:
                hidden, encoded = run(block, hidden, encoded, times, rotary)
            if tap is not None:
                tap.take(index, hidden[:, :video_tokens])
        if tap is not None:
            return None

        hidden = net.norm_final(hidden)
        seen, acted = hidden[:, :video_tokens], hidden[:, video_tokens:]
        if first_time is not time:
            first, rest = seen[:, :first_tokens], seen[:, first_tokens:]
            seen = torch.cat([net.norm_out(first, temb=first_time), net.norm_out(rest, temb=time)], dim=1)
        else:
            seen = net.norm_out(seen, temb=time)
        pixels = net.proj_out(seen).unflatten(2, (-1, patch, patch)).unflatten(1, grid)
        # [B, F, h, w, C, p, p] to [B, F, C, h p, w p].
        pixels = pixels.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, frames, -1, height, width)
        return pixels, self.action.read(acted, action_time)

    def video_grid(self, video: Tensor) -> tuple[int, int, int]:
        """Frames, rows and columns of the tokens of video [B, F, C_in, H, W]."""
        patch = self.transformer.config.patch_size
        return video.shape[1], video.shape[3] // patch, video.shape[4] // patch

    def _time(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        net = self.transformer
        return net.time_embedding(net.time_proj(timestep).to(dtype))

    def _rotary(self, grid: tuple[int, int, int], actions: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        config = self.transformer.config
        if not config.use_rotary_positional_embeddings:
            return None
        base = None
        if self.rope_mode == "resize_crop":
            base = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
        return rotary_table(config.attention_head_dim, grid, unrotated=actions, base=base, device=device)

    def _check(self, video: Tensor, text: Tensor) -> None:
        config = self.transformer.config
        _, frames, channels, height, width = video.shape
        if channels != config.in_channels or height % config.patch_size or width % config.patch_size:
            raise ValueError(
                f"video must have {config.in_channels} channels and a size that is a multiple of the patch "
                f"{config.patch_size}; got {tuple(video.shape)}"
            )
        learned = config.use_learned_positional_embeddings
        if not (learned or not config.use_rotary_positional_embeddings):
            return
        if text.shape[1] != config.max_text_seq_length:
            raise InputError(
                f"this network adds a table of positions to {config.max_text_seq_length} text tokens; got "
                f"{text.shape[1]}: pad the prompt to that length before it is encoded"
            )
        made_for = ((config.sample_frames - 1) // config.temporal_compression_ratio + 1,)
        made_for += (config.sample_height, config.sample_width)
        if learned and made_for != (frames, height, width):
            raise InputError(
                f"the learned table of positions is made for (frames, rows, columns) {made_for}, got "
                f"{(frames, height, width)}: load the network with use_learned_positional_embeddings=False"
            )


def run_block(block: nn.Module, *arguments: Any) -> tuple[Tensor, Tensor]:
    return block(*arguments)
