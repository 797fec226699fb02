# SPDX-License-Identifier: Apache-2.0
"""LingBot-VA behind the contract of a world-action model.

Shapes: B samples, C latent channels, F latent frames, H, W latent size, A action channels, N actions per frame,
L text tokens, D text width.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from flashwam.system.errors import InputError
from flashwam.system.hub import push_folder
from flashwam.system.paths import user_path
from flashwam.wam.configured import Configured
from flashwam.wam.features import LooksInside
from flashwam.wam.layout import Layout
from flashwam.wam.lingbot_va.checkpoint import find_transformer, load_transformer, network_config
from flashwam.wam.lingbot_va.compiled_blocks import CompiledTrunk
from flashwam.wam.lingbot_va.config import LingBotConfig
from flashwam.wam.lingbot_va.graphed import Lanes
from flashwam.wam.lingbot_va.lerobot import say_recipe_differences
from flashwam.wam.lingbot_va.masks import block_ids
from flashwam.wam.lingbot_va.patches import keep_used
from flashwam.wam.lingbot_va.session import LingBotSession
from flashwam.wam.lingbot_va.settings import says_how, settings_of
from flashwam.wam.lingbot_va.transformer import WanTransformer3DModel
from flashwam.wam.taps import FeatureTap
from flashwam.wam.wam_file import WAM_FILE

__all__ = ["LingBotVA"]

TIMESTEPS = 1000.0


class LingBotVA(LooksInside, Configured):
    """A flow-matching network of velocities for video latents and actions; the timestep it is fed is 1000 sigma.

    Args:
        transformer: The network.
        config: Shape of a rollout.
        attention: "sdpa" or "flex", see `WanTransformer3DModel.set_attention`.
        gradient_checkpointing: Recompute blocks in the backward pass instead of keeping their activations.
    """

    # Every linear layer of the blocks; the embedders and heads around them stay the teacher's.
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    compute_options = ("attention", "gradient_checkpointing", "rollout")
    draw_settings = ("window_chunks", "eviction", "matmul_dtype", "used_channels")
    fitted = ("attn_mode",)

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        config: LingBotConfig,
        *,
        attention: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        inner = transformer.config
        super().__init__(
            Layout(
                streams=("video", "action"),
                shapes={
                    "video": (inner.in_channels, *config.latent_size),
                    "action": (inner.action_dim, config.actions_per_frame, 1),
                },
                chunk_frames=config.chunk_frames,
                text_shape=(None, inner.text_dim),
            )
        )
        _, rows, columns = inner.patch_size
        height, width = config.latent_size
        if height % rows or width % columns:
            raise InputError(f"latent_size {config.latent_size} must be a multiple of the patch {(rows, columns)}")
        channels = inner.action_dim
        if config.used_channels is not None and max(config.used_channels, default=0) >= channels:
            raise InputError(f"used_channels {config.used_channels} must be below the model's {channels}")
        self.transformer = transformer
        self.config = config
        self.transformer.set_attention(attention)
        self.transformer.set_matmul_dtype(getattr(torch, config.matmul_dtype) if config.matmul_dtype else None)
        if gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.choose_rollout(config.rollout)

    @property
    def actions_per_frame(self) -> int:
        """Actions per latent frame N."""
        return self.config.actions_per_frame

    @property
    def window_chunks(self) -> int:
        """Reach of attention in blocks, see `LingBotConfig`."""
        return self.config.window_chunks

    @property
    def used_channels(self) -> tuple[int, ...] | None:
        """See `WorldActionModel.used_channels`."""
        return self.config.used_channels

    def compile_training(self, **options: Any) -> None:
        """See `WorldActionModel.compile_training`."""
        self.transformer.compile_training(**options)

    def choose_rollout(self, rollout: str) -> None:
        """See `WorldActionModel.choose_rollout`; `LingBotConfig` names the ways."""
        self.config = replace(self.config, rollout=rollout)
        self.lanes = Lanes() if rollout == "graphed" else None

    @property
    def warm_up_chunks(self) -> int:
        """See `WorldActionModel.warm_up_chunks`: from the fourth on, chunks are of kinds that came before."""
        return 4 if self.config.rollout in ("compiled", "graphed") else 0

    @property
    def warm_up_sessions(self) -> int:
        """See `WorldActionModel.warm_up_sessions`: as many as run in graphs."""
        return self.lanes.most if self.config.rollout == "graphed" else 1

    @classmethod
    def create(
        cls,
        *,
        latent_size: tuple[int, int],
        chunk_frames: int,
        actions_per_frame: int,
        window_chunks: int,
        eviction: str = "mask",
        attention: str = "sdpa",
        gradient_checkpointing: bool = False,
        matmul_dtype: str | None = None,
        rollout: str = "dynamic",
        used_channels: Sequence[int] | None = None,
        **transformer: Any,
    ) -> "LingBotVA":
        """A model with fresh weights; further keywords are `WanTransformer3DModel`'s."""
        config = LingBotConfig(
            latent_size=latent_size,
            chunk_frames=chunk_frames,
            actions_per_frame=actions_per_frame,
            window_chunks=window_chunks,
            eviction=eviction,
            matmul_dtype=matmul_dtype,
            rollout=rollout,
            used_channels=None if used_channels is None else tuple(used_channels),
        )
        return cls(
            WanTransformer3DModel(**transformer),
            config,
            attention=attention,
            gradient_checkpointing=gradient_checkpointing,
        )

    @classmethod
    def keywords(cls) -> dict[str, bool]:
        """See `WorldActionModel.keywords`."""
        own = inspect.signature(cls.create).parameters.values()
        network = inspect.signature(WanTransformer3DModel.__init__).parameters.values()
        required = {p.name: p.default is p.empty for p in own if p.kind is p.KEYWORD_ONLY}
        return required | {p.name: False for p in network if p.name != "self"}

    @classmethod
    def adopt(
        cls,
        folder: str | Path,
        *,
        attention: str = "sdpa",
        gradient_checkpointing: bool = False,
        role: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> "LingBotVA":
        """Another tool's weights under settings of one's own: `create`'s keywords, `from_pretrained`'s files.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: Keys do not fit, or the network is not of the size the keywords say.
        """
        config = LingBotConfig(**{k: settings.pop(k) for k in LingBotConfig.__slots__ if k in settings})
        source = find_transformer(folder, role=role)
        own = network_config(source)
        wrong = {k: v for k, v in settings.items() if k != "attn_mode" and _plain(own.get(k)) != _plain(v)}
        if wrong:
            raise InputError(
                f"{source.folder} does not hold the network that was asked for: expected {wrong}, got "
                f"{ ({k: own.get(k) for k in wrong}) }"
            )
        if says_how(source):
            say_recipe_differences(config, source)
        network = load_transformer(folder, role=role, dtype=dtype, device=device)
        return cls(network, config, attention=attention, gradient_checkpointing=gradient_checkpointing)

    def velocity(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """See `WorldActionModel.velocity`."""
        return self._pass(noisy, sigma, clean, context, kept=context.get("kept"))

    @property
    def feature_blocks(self) -> int:
        """See `LooksInside.feature_blocks`."""
        return self.transformer.config.num_layers

    def feature_width(self, blocks: Sequence[int]) -> int:
        """See `LooksInside.feature_width`."""
        inner = self.transformer.config
        return len(blocks) * inner.num_attention_heads * inner.attention_head_dim

    def feature_parameters(self, blocks: Sequence[int]) -> int:
        """See `LooksInside.feature_parameters`: neither deeper blocks nor heads are run."""
        net, depth = self.transformer, FeatureTap(blocks, self.feature_blocks).depth
        # The original's files carry a second text embedder that nothing uses.
        unused = [*net.blocks[depth:], net.proj_out, net.action_proj_out, net.condition_embedder_action.text_embedder]
        left = sum(p.numel() for module in unused for p in module.parameters()) + net.scale_shift_table.numel()
        return sum(p.numel() for p in net.parameters()) - left

    def features(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
        *,
        blocks: Sequence[int],
    ) -> Tensor:
        """See `LooksInside.features`."""
        tap = FeatureTap(blocks, self.feature_blocks)
        self._pass(noisy, sigma, clean, context, tap=tap)
        return tap.maps(self.transformer.video_grid(noisy["video"]))

    def _pass(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
        **options: Any,
    ) -> dict[str, Tensor]:
        clean_sigma = context.get("clean_sigma") or {}
        used = self.config.used_channels
        noisy = {stream: keep_used(stream, x, used) for stream, x in noisy.items()}
        clean = {stream: keep_used(stream, x, used) for stream, x in clean.items()}
        return self.transformer(
            noisy,
            {stream: TIMESTEPS * sigma[stream] for stream in noisy},
            clean,
            context["text"],
            chunk_frames=context.get("chunk_frames") or self.chunk_frames,
            window=context.get("window_chunks") or self.window_chunks,
            clean_timestep={stream: TIMESTEPS * level for stream, level in clean_sigma.items()},
            **options,
        )

    def session(
        self,
        text: Tensor,
        *,
        null_text: Tensor | None = None,
        guidance: Mapping[str, float] | None = None,
        window_chunks: int | None = None,
        eviction: str | None = None,
        fused: bool = True,
        static: bool | None = None,
        depth: int | None = None,
    ) -> LingBotSession:
        """See `WorldActionModel.session`.

        Args:
            text: [B, L, D].
            null_text: [L, D].
            guidance: Stream name -> scale.
            window_chunks: Replaces the model's own.
            eviction: Replaces the model's own, see `LingBotConfig`.
            fused: As in `LingBotSession`.
            static: A cache of fixed shapes, which grows if False; as the model's own `rollout` says if None.
            depth: As in `LingBotSession`.
        """
        graphed = static is None and self.config.rollout == "graphed"
        static = self.config.rollout != "dynamic" if static is None else static
        return LingBotSession(
            self.transformer,
            text,
            null_text=null_text,
            guidance=guidance,
            window=window_chunks or self.window_chunks,
            eviction=eviction or self.config.eviction,
            fused=fused,
            chunk_tokens=self._chunk_tokens() if static else None,
            lanes=self.lanes if graphed else None,
            trunk=CompiledTrunk() if self.config.rollout == "compiled" else None,
            used_channels=self.config.used_channels,
            depth=depth,
        )

    def feature_session(self, text: Tensor, *, blocks: Sequence[int]) -> LingBotSession:
        """See `LooksInside.feature_session`; no deeper block is run or kept."""
        return self.session(text, depth=FeatureTap(blocks, self.feature_blocks).depth)

    def pass_tokens(self, frames: int) -> int:
        """See `WorldActionModel.pass_tokens`: every noisy token, and the clean ones that some noisy token may see."""
        per_frame = {stream: count // self.chunk_frames for stream, count in self._chunk_tokens().items()}
        blocks = {stream: block_ids(stream, frames, self.chunk_frames) for stream in per_frame}
        last = max(int(ids[-1]) for ids in blocks.values())
        return sum(count * (frames + int((blocks[name] < last).sum())) for name, count in per_frame.items())

    def draw_tokens(self, stage: tuple[str, ...]) -> int:
        """See `WorldActionModel.draw_tokens`."""
        return sum(self._chunk_tokens()[name] for name in stage)

    def _chunk_tokens(self) -> dict[str, int]:
        rows, columns = self.transformer.config.patch_size[1:]
        height, width = self.config.latent_size
        per_frame = {"video": height // rows * (width // columns), "action": self.actions_per_frame}
        return {stream: self.chunk_frames * count for stream, count in per_frame.items()}

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``transformer/`` in the original's layout and ``wam.json`` beside it."""
        folder = user_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.transformer.save_pretrained(folder / "transformer")
        self.config.save(folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Saves and uploads to the Hugging Face Hub; see `flashwam.system.hub.push_folder` for the options.

        A student is better pushed from its folder with `flashwam.student.push_to_hub`: how it must be sampled, and
        its card, are there and not in the model.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(folder, repo_id, **{"commit_message": "Upload LingBot-VA", **options})

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        preset: str | None = None,
        role: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        attention: str = "sdpa",
        gradient_checkpointing: bool = False,
        rollout: str | None = None,
    ) -> "LingBotVA":
        """Loads any checkpoint `find_transformer` knows; keys that do not fit are a ValueError that lists them.

        Args:
            folder: What `save_pretrained` wrote, or another tool's checkpoint.
            preset: Name in `presets.PRESETS`, for a checkpoint without ``wam.json``; a LeRobot policy says itself
                what a preset would, and what a named one changes of that is logged.
            role: Which student of the Flash-WAM release, see `find_transformer`.
            dtype: Dtype of the parameters; that of the files by default.
            device: Where they go.
            attention: "sdpa" or "flex".
            gradient_checkpointing: See the class.
            rollout: Replaces the folder's own, see `LingBotConfig`.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: Keys do not fit, or it is not clear how a rollout is shaped.
        """
        source = find_transformer(folder, role=role)
        noted = (source.root / WAM_FILE).is_file()
        if noted and preset is not None:
            raise InputError(f"{source.root / WAM_FILE} says how {folder} is run; leave preset {preset!r} out")
        if preset is None and (noted or not says_how(source)):
            config = LingBotConfig.load(source.root)
        else:
            config = settings_of(source, preset).config
        if rollout is not None:
            config = replace(config, rollout=rollout)
        transformer = load_transformer(folder, role=role, dtype=dtype, device=device)
        model = cls(transformer, config, attention=attention, gradient_checkpointing=gradient_checkpointing)
        return model.said_by_folder(asdict(config)) if preset is None else model


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
