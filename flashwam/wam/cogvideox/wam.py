# SPDX-License-Identifier: Apache-2.0
"""CogVideoX with actions behind the contract of a world-action model.

Shapes: B samples, C latent channels, F latent frames with the observed one, H, W latent size, A action channels, N
actions per frame, K action tokens, L text tokens, D text width.

Outside, everything is on the flow path: x = (1 - sigma) x0 + sigma eps and velocities eps - x0. Inside, the network
sees x = alpha x0 + s eps with alpha^2 + s^2 = 1 and puts out alpha eps - s x0. The two are exchanged in float32.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from flashwam.core.noise import flow_output_from_vp
from flashwam.core.vp import VPSchedule
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.wam.cogvideox.action import ActionModule
from flashwam.wam.cogvideox.checkpoint import find_transformer, load_module, network_config, place, training_noise
from flashwam.wam.cogvideox.chunk import action_slots, action_tokens, check_chunk, chunk_layout
from flashwam.wam.cogvideox.config import DRAW_SETTINGS, CogVideoXConfig, split_options
from flashwam.wam.cogvideox.coordinates import network_state, network_timestep, shared_levels, velocity_from_data
from flashwam.wam.cogvideox.fitting import FITTED, fitted_transformer, fresh_positions, table_size
from flashwam.wam.cogvideox.graphed import RecordedNetwork
from flashwam.wam.cogvideox.network import CogVideoXActionNetwork
from flashwam.wam.cogvideox.presets import SNR_SHIFTS, check_version, network_options
from flashwam.wam.configured import Configured
from flashwam.wam.features import LookingReplay, LooksInside
from flashwam.wam.layout import Layout
from flashwam.wam.recording import CannotRecordError
from flashwam.wam.taps import FeatureTap

__all__ = ["CogVideoX"]


class CogVideoX(LooksInside, Configured):
    """A video-diffusion transformer that draws a chunk's video and actions together from its first frame.

    Args:
        transformer: The stock network.
        action: Its companion for actions.
        config: Shape of a chunk, and the network's noise.
        gradient_checkpointing: Recompute blocks in the backward pass instead of keeping their activations.

    Raises:
        ValueError: The parts do not fit each other.
    """

    # Every linear layer of the blocks; the embedders and heads around them stay the teacher's.
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
    compute_options = ("gradient_checkpointing", "rollout")
    text_in_blocks = True
    draw_settings = DRAW_SETTINGS
    fitted = FITTED

    def __init__(
        self,
        transformer: CogVideoXTransformer3DModel,
        action: ActionModule,
        config: CogVideoXConfig,
        *,
        gradient_checkpointing: bool = False,
    ) -> None:
        inner, patch = transformer.config, transformer.config.patch_size
        text_shape = (inner.max_text_seq_length, inner.text_embed_dim)
        super().__init__(chunk_layout(config, channels=inner.out_channels, text_shape=text_shape))
        if any(size % patch for size in config.latent_size):
            raise InputError(f"latent_size {config.latent_size} must be a multiple of the patch {patch}")
        blocks = 2 if config.conditioning == "channel_concat" else 1
        if inner.in_channels != blocks * inner.out_channels:
            raise InputError(
                f"conditioning {config.conditioning!r} needs {blocks * inner.out_channels} input channels, "
                f"{blocks} x {inner.out_channels}; the transformer has {inner.in_channels}"
            )
        expected = (config.action_dim, config.action_tokens, config.robots)
        own = (action.config.action_dim, action.config.tokens, action.config.robots)
        if own != expected:
            raise InputError(f"(action_dim, action_tokens, robots) must be {expected}; the action module has {own}")
        if config.norm_out_eps is not None:
            transformer.norm_out.norm.eps = config.norm_out_eps
        self.config = config
        self.network = CogVideoXActionNetwork(transformer, action, rope_mode=config.rope_mode)
        # Of rollouts alone: a pass that is trained, or whose adapters are switched, is none that a recording knows.
        self.recorded = RecordedNetwork()
        self.schedule = VPSchedule(snr_shift=config.snr_shift, beta_start=config.beta_start, beta_end=config.beta_end)
        if gradient_checkpointing:
            transformer.enable_gradient_checkpointing()

    @property
    def transformer(self) -> CogVideoXTransformer3DModel:
        """The stock network."""
        return self.network.transformer

    @property
    def action(self) -> ActionModule:
        """Its companion for actions."""
        return self.network.action

    @property
    def actions_per_frame(self) -> int:
        """Actions per latent frame N."""
        return self.config.actions_per_frame

    @classmethod
    def create(cls, *, network: str | None = None, gradient_checkpointing: bool = False, **options: Any) -> "CogVideoX":
        """A model with fresh weights.

        Args:
            network: A released network's name, see `presets.NETWORKS`.
            gradient_checkpointing: See the class.
            options: Fields of `CogVideoXConfig`; further keywords are `CogVideoXTransformer3DModel`'s. Input channels
                and the size of a table of positions follow the chunk where they are not given, and `snr_shift` the
                released network.
        """
        named, noise = ({}, {}) if network is None else (network_options(network), {"snr_shift": SNR_SHIFTS[network]})
        config, given = split_options({**noise, **options})
        full = network_config({**named, **given})
        check_version(full)
        blocks = 2 if config.conditioning == "channel_concat" else 1
        fitted: dict[str, Any] = {"in_channels": blocks * full["out_channels"]}
        if full["use_learned_positional_embeddings"] or not full["use_rotary_positional_embeddings"]:
            fitted |= table_size(config, full)
        transformer = CogVideoXTransformer3DModel(**{**full, **fitted, **given})
        if full["use_learned_positional_embeddings"]:
            fresh_positions(transformer, {key: transformer.config[key] for key in fitted if key != "in_channels"})
        return cls(
            transformer,
            _fresh_action(transformer, config),
            config,
            gradient_checkpointing=gradient_checkpointing,
        )

    @classmethod
    def keywords(cls) -> dict[str, bool]:
        """See `WorldActionModel.keywords`."""
        own = {field.name: field.default is MISSING for field in fields(CogVideoXConfig)}
        network = inspect.signature(CogVideoXTransformer3DModel.__init__).parameters
        return {"network": False, "gradient_checkpointing": False, **own} | {n: False for n in network if n != "self"}

    @classmethod
    def adopt(
        cls,
        folder: str | Path,
        *,
        network: str | None = None,
        gradient_checkpointing: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> "CogVideoX":
        """Another tool's CogVideoX under settings of one's own: `create`'s keywords, `find_transformer`'s files.

        An input for video alone is widened with zeros where the conditioning needs it. A learned table of positions
        is kept where it fits the chunk and left out where it does not, unless the settings say
        ``use_learned_positional_embeddings``: then one that does not fit is begun anew at zero. The action module is
        fresh unless the folder has one. What the settings leave open of the noise is read from ``scheduler/`` beside
        the transformer, or is the released network's of that size; with ``wam.json`` there, it fills all gaps.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: Keys do not fit, or the network is not of the size the keywords say.
        """
        source = find_transformer(folder)
        known = training_noise(source)
        if source.layout == "flashwam":
            saved = CogVideoXConfig.load(source.root)
            known = {name: getattr(saved, name) for name in CogVideoXConfig.__slots__}
        config, given = split_options({**known, **settings})
        asked = {**(network_options(network) if network is not None else {}), **given}
        transformer = fitted_transformer(source, config, asked=asked, dtype=dtype, device=device)
        if source.action is not None:
            action = load_module(ActionModule, source.action, dtype=dtype, device=device)
        else:
            action = place(_fresh_action(transformer, config), device=device, dtype=transformer.proj_out.weight.dtype)
        model = cls(transformer, action, config, gradient_checkpointing=gradient_checkpointing)
        return model.said_by_folder(known).eval()

    def velocity(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """See `WorldActionModel.velocity`; the past that counts is one frame.

        Args:
            noisy: "video" [B, C, F, H, W] and "action" [B, A, F, N, 1], where slot j holds the actions between the
                latent frames j - 1 and j and slot 0 nothing.
            sigma: Stream name -> [B, F], constant over F; the streams' levels may differ.
            clean: "video" [B, C, F', H, W] with F' >= F; frame F' - F is the observation, encoded alone.
            context: "text" [B, L, D]; optional "robot", ids [B].

        Returns:
            Stream name -> eps - x0, shaped like `noisy`, float32 or better; zero where no action is drawn. With
            prefix conditioning frame 0 of the video is (x - x0) / sigma, and 0 at sigma 0.

        Raises:
            ValueError: A stream is missing, has another number of frames than a chunk, or levels that differ over it.
        """
        return self._pass(noisy, sigma, clean, context)

    def compile_training(self, **options: Any) -> None:
        """See `WorldActionModel.compile_training`."""
        self.network.compile_training(**options)

    def choose_rollout(self, rollout: str) -> None:
        """See `WorldActionModel.choose_rollout`; `CogVideoXConfig` names the ways."""
        self.config = replace(self.config, rollout=rollout)

    @property
    def warm_up_chunks(self) -> int:
        """See `WorldActionModel.warm_up_chunks`: passes are of one shape, whatever came before them."""
        return 1 if self.config.rollout == "graphed" else 0

    def session(
        self, text: Tensor, *, null_text: Tensor | None = None, guidance: Mapping[str, float] | None = None
    ) -> LookingReplay:
        """See `WorldActionModel.session`; it replays recorded passes where the configuration says so."""
        run = None
        if self.config.rollout == "graphed":
            try:
                self.recorded.begin(self, self.network)
                run = _RecordedPasses(self)
            except CannotRecordError as error:
                self.recorded.recordings.say(error)
        return LookingReplay(self, text, run=run, null_text=null_text, guidance=guidance)

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
        unused = [*net.transformer_blocks[depth:], net.norm_final, net.norm_out, net.proj_out]
        unused += [self.action.norm_out, self.action.proj_out]
        return sum(p.numel() for p in self.parameters()) - sum(p.numel() for m in unused for p in m.parameters())

    def features(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
        *,
        blocks: Sequence[int],
    ) -> Tensor:
        """See `LooksInside.features`; needs both streams, which see each other."""
        tap = FeatureTap(blocks, self.feature_blocks)
        self._pass(noisy, sigma, clean, context, tap=tap)
        return tap.maps(self.network.video_grid(noisy["video"].transpose(1, 2)))

    def _pass(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
        *,
        tap: FeatureTap | None = None,
        recorded: RecordedNetwork | None = None,
    ) -> dict[str, Tensor]:
        """Velocities; nothing where a tap takes the hidden states."""
        check_chunk(self.layout, noisy, sigma, clean, context)
        level, shared = shared_levels(sigma, self.streams, waits=recorded is None)
        # One kind of recording, whatever the levels.
        shared = shared and recorded is None
        observation = clean["video"][:, :, clean["video"].shape[2] - self.chunk_frames]
        video, video_noise = network_state(noisy["video"].transpose(1, 2), level["video"])
        action, action_noise = network_state(action_tokens(self.config, noisy["action"]), level["action"])
        observed = observation.to(video.dtype)[:, None]
        if self.config.conditioning == "prefix":
            seen = torch.cat([observed, video[:, 1:]], dim=1)
        else:
            shown = torch.cat([observed, torch.zeros_like(video[:, 1:])], dim=1)
            seen = torch.cat([video, shown], dim=2)

        dtype, timestep = self.network.dtype, network_timestep(self.schedule, level["video"])
        run = self.network if recorded is None else partial(recorded, self.network)
        out = run(
            seen.to(dtype),
            action.to(dtype),
            context["text"].to(dtype),
            timestep,
            first_timestep=torch.zeros_like(timestep) if self.config.conditioning == "prefix" else None,
            action_timestep=None if shared else network_timestep(self.schedule, level["action"]),
            robot=self._robot(context, timestep),
            tap=tap,
        )
        if out is None:
            return {}
        video_out, action_out = out
        video_flow = flow_output_from_vp(video_out.to(video.dtype), video, *video_noise).transpose(1, 2)
        if self.config.conditioning == "prefix":
            first = velocity_from_data(noisy["video"][:, :, 0].to(video.dtype), observed[:, 0], level["video"])
            video_flow = torch.cat([first[:, :, None], video_flow[:, :, 1:]], dim=2)
        action_flow = flow_output_from_vp(action_out.to(action.dtype), action, *action_noise)
        return {"video": video_flow, "action": action_slots(self.config, action_flow)}

    def pass_tokens(self, frames: int) -> int:
        """See `WorldActionModel.pass_tokens`; a pass is one chunk, whatever `frames` came before it."""
        patch = self.transformer.config.patch_size
        rows, columns = self.config.latent_size
        return self.chunk_frames * (rows // patch) * (columns // patch) + self.config.action_tokens

    def draw_tokens(self, stage: tuple[str, ...]) -> int:
        """See `WorldActionModel.draw_tokens`: a chunk, as always."""
        return self.pass_tokens(self.chunk_frames)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``transformer/`` in diffusers' layout, ``action/`` and ``wam.json`` beside it."""
        folder = user_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.transformer.save_pretrained(folder / "transformer")
        self.action.save_pretrained(folder / "action")
        self.config.save(folder)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        gradient_checkpointing: bool = False,
        rollout: str | None = None,
    ) -> "CogVideoX":
        """Loads what `save_pretrained` wrote; keys that do not fit are a ValueError that lists them.

        Args:
            folder: The model's.
            dtype: Dtype of the parameters; that of the files by default.
            device: Where they go.
            gradient_checkpointing: See the class.
            rollout: Replaces the folder's own, see `CogVideoXConfig`.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: Keys do not fit.
        """
        source = find_transformer(folder)
        config = CogVideoXConfig.load(source.root)
        if rollout is not None:
            config = replace(config, rollout=rollout)
        transformer = load_module(CogVideoXTransformer3DModel, source.folder, dtype=dtype, device=device)
        action = load_module(ActionModule, source.root / "action", dtype=dtype, device=device)
        model = cls(transformer, action, config, gradient_checkpointing=gradient_checkpointing)
        return model.said_by_folder(asdict(config)).eval()

    def _robot(self, context: Mapping[str, Any], like: Tensor) -> Tensor | None:
        robot = context.get("robot")
        if not self.config.robots:
            if robot is not None:
                raise InputError("context names robots, but this model has no embedding for them (robots = 0)")
            return None
        if robot is None:
            return torch.full(like.shape, self.config.robot, dtype=torch.long, device=like.device)
        return robot.to(like.device)


class _RecordedPasses:
    """The model's velocities with its network replayed."""

    def __init__(self, wam: CogVideoX) -> None:
        self._wam = wam

    @property
    def layout(self) -> Layout:
        return self._wam.layout

    def __call__(self, *arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        return self._wam._pass(*arguments, recorded=self._wam.recorded)


def _fresh_action(transformer: CogVideoXTransformer3DModel, config: CogVideoXConfig) -> ActionModule:
    inner = transformer.config
    return ActionModule(
        action_dim=config.action_dim,
        tokens=config.action_tokens,
        width=inner.num_attention_heads * inner.attention_head_dim,
        time_dim=inner.time_embed_dim,
        robots=config.robots,
    )
