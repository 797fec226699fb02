# SPDX-License-Identifier: Apache-2.0
"""A model as it is served: loaded once with its codec and samplers, shared by all sessions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flashwam.core.sampler_name import sampler_name
from flashwam.core.steps import parse_nfe
from flashwam.core.temperature import Temperature
from flashwam.data.codec import Codec
from flashwam.data.episodes import CAMERA
from flashwam.data.fingerprint import tensors_fingerprint
from flashwam.run.folder import RunFolder
from flashwam.run.model_info import ModelInfo, model_folder
from flashwam.sampling import StreamSampler, samplers_for
from flashwam.serve.codec import FrameCodec, ObservationCodec
from flashwam.serve.per_picture import PerPictureCodec
from flashwam.student import load_wam
from flashwam.system.errors import InputError
from flashwam.system.hub import local_folder
from flashwam.system.imports import trusting
from flashwam.wam.base import WorldActionModel
from flashwam.wam.devices import device_named
from flashwam.wam.dtypes import dtype_named
from flashwam.wam.encoder_passes import ENCODERS
from flashwam.wam.files import files_for_preset, files_of_codec, files_that_say_how

__all__ = ["ServedModel", "describe_sampling", "load_served"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The model and settings that all sessions share.

    Args:
        wam: The model, in evaluation mode.
        samplers: Stream name -> how it is drawn.
        codec: Makes an episode's codec.
        metadata: Plain values that a client is told when it connects.
        sampled: Steps -> samplers, see `at`; None for a model that is served in these steps alone.
    """

    wam: WorldActionModel
    samplers: Mapping[str, StreamSampler]
    codec: Callable[[], ObservationCodec]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sampled: Callable[[str | None], Mapping[str, StreamSampler]] | None = None

    def at(self, nfe: str | None) -> "ServedModel":
        """The same model, drawn in other steps.

        Args:
            nfe: See `load_served`.

        Raises:
            ValueError: They are none, or it is served in its own alone.
        """
        if self.sampled is None:
            raise ValueError("this model is served in its own steps alone: load it with load_served")
        samplers = self.sampled(nfe)
        return replace(self, samplers=samplers, metadata={**self.metadata, **describe_sampling(self.wam, samplers)})


def load_served(
    folder: str | Path,
    *,
    nfe: str | None = None,
    device: str = "cpu",
    preset: str | None = None,
    base: str | Path | None = None,
    rollout: str | None = None,
    encoder: str | None = None,
    dtype: str | None = None,
    precision: str | None = None,
    temperature: Temperature | None = None,
    trust: bool = False,
) -> ServedModel:
    """Loads a model with its codec.

    Args:
        folder: A teacher's or student's folder, a run folder, or "hf:owner/name" of the hub; with a preset, another
            tool's checkpoint that its family knows.
        nfe: Steps such as "1v/2a", or "full"; what the model itself says if None.
        device: Where it runs.
        preset: For another tool's checkpoint, see `load_wam`.
        base: Folder, or "hf:owner/name", with ``vae/``, ``text_encoder/`` and ``tokenizer/``; that of `folder` itself,
            or the one noted in its ``codec.json``, if None.
        rollout: One of its family's ways to compute a rollout; the model's own if None.
        encoder: How a video autoencoder encodes pictures, see `EncoderPasses`; if None, as `rollout` says where that is
            one of its ways, and else "plain".
        dtype: "bfloat16" or "float32" of the model and a video autoencoder; that of the model's files if None.
        precision: "own" or "fp8", see `WorldActionModel.choose_precision`; what its recipe says if None.
        temperature: Of the noise that every stream begins with, 0 to 10, or stream -> of its own; what the model itself
            says where None.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError, ValueError: it cannot be loaded, sampled or rounded, or there is no such device.
    """
    place = device_named(device)
    folder = model_folder(folder)
    other = {} if dtype is None else {"dtype": dtype_named(dtype)}
    wam, info = load_wam(folder, preset=preset, trust=trust, **other)
    if rollout is not None:
        wam.choose_rollout(rollout)
    weights = tensors_fingerprint(wam.state_dict())
    # Before it is moved, so that a GPU holds 8-bit weights alone.
    wam.choose_precision(info.precision if precision is None else precision)
    wam.to(place).eval()
    sampled = partial(_samplers, info, temperature)
    samplers = sampled(nfe)
    with trusting(trust):
        codec, facts = _codec(folder, wam, device, preset=preset, base=base, rollout=rollout, encoder=encoder)
    metadata = {
        "name": info.name or RunFolder.of_model(folder).name,
        "kind": info.role,
        "step": info.steps,
        "weights": weights,
        "device": device,
        "dtype": str(next(wam.parameters()).dtype).removeprefix("torch."),
        "sampler": sampler_name(temperature=temperature),
        "precision": wam.precision,
        "tasks": list(info.tasks),
        "episodes": info.episodes,
        "training_seed": info.seed,
        "family": info.family,
        **facts,
        **describe_sampling(wam, samplers),
    }
    return ServedModel(wam=wam, samplers=samplers, codec=codec, metadata=metadata, sampled=sampled)


def _samplers(info: ModelInfo, temperature: Temperature | None, nfe: str | None) -> dict[str, StreamSampler]:
    """Samplers for steps such as "1v/2a"; for those that the model itself says if None."""
    teacher = info.kind == "teacher"
    steps = parse_nfe(nfe, tuple(info.streams)) if nfe is not None else None
    if nfe is None and not teacher:
        steps = {name: spec.steps for name, spec in info.streams.items()}
    return samplers_for(info.streams, steps=steps, teacher=teacher, temperature=temperature)


def _codec(
    folder: Path,
    wam: WorldActionModel,
    device: str,
    *,
    preset: str | None,
    base: str | Path | None,
    rollout: str | None,
    encoder: str | None,
) -> tuple[Callable[[], ObservationCodec], dict[str, Any]]:
    """Gives the maker of an episode's codec, and the facts of it that a client needs."""
    if preset is None:
        files = files_of_codec(folder) or files_that_say_how(folder)
    else:
        files = files_for_preset(preset)
    if files is None:
        if base is not None:
            raise InputError(f"{folder} has codecs of its own; a base folder is for models that lack them")
        if encoder not in (None, "plain"):
            raise InputError(f"{folder} has an autoencoder of single pictures, which is plain; got encoder {encoder!r}")
        return _frame_codec(folder, wam, device)
    base = None if base is None else local_folder(base)
    way = encoder or (rollout if rollout in ENCODERS else "plain")
    dtype = next(wam.parameters()).dtype
    opener, facts = files.codec(folder, preset=preset, base=base, dtype=dtype, device=device, encoder=way)
    return opener, {**facts, "encoder": way}


def _frame_codec(
    folder: Path, wam: WorldActionModel, device: str
) -> tuple[Callable[[], ObservationCodec], dict[str, Any]]:
    codec = Codec.load(folder)
    codec.autoencoder.to(device)
    if codec.cameras is not None:
        robot = PerPictureCodec(
            cameras=codec.cameras, actions=codec.actions, prompts=codec.text, autoencoder=codec.autoencoder
        )
        return robot.open, robot.facts
    height, width = (side * codec.autoencoder.factor for side in wam.shapes["video"][1:])
    facts: dict[str, Any] = {
        "cameras": [CAMERA],
        "picture_size": [height, width],
        "controls": len(codec.actions.used),
        "keyframes_per_frame": 1,
    }
    return lambda: FrameCodec(codec, size=(height, width)), facts


def describe_sampling(wam: WorldActionModel, samplers: Mapping[str, StreamSampler]) -> dict[str, Any]:
    """Describes how chunks are drawn, as plain values for `ServedModel.metadata`."""
    return {
        "chunk_frames": wam.chunk_frames,
        "senses": dict(wam.senses),
        "takes_under_way": not wam.layout.never_imagined,
        "takes_looks": True,
        "actions_per_frame": wam.shapes["action"][1],
        "nfe": {name: sampler.steps for name, sampler in samplers.items()},
        "streams": {
            name: {
                "function": dict(sampler.consistency.config),
                "schedule": dict(sampler.schedule.config),
                "guidance_scale": float(sampler.guidance_scale),
                "temperature": float(sampler.temperature),
            }
            for name, sampler in samplers.items()
        },
    }
