# SPDX-License-Identifier: Apache-2.0
"""Roles that share one backbone: the teacher is it alone, every other role is it with a low-rank adapter of its own.

A role with an adapter adds (alpha / rank) B A x to the result of each adapted linear layer W x; only A and B are its
own. B starts at zero, so every role starts as the teacher.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flashwam.recipe import LoraConfig
from flashwam.wam.base import RolloutSession, WorldActionModel

__all__ = ["AdaptedModel", "Adapters"]

STUDENT = "student"


class Adapters:
    """A backbone with exchangeable low-rank adapters.

    The student's adapter is switched on whenever nobody else computes, so that a backward pass that recomputes
    activations finds it there. The backbone is frozen and in evaluation mode, and is changed in place: its adapted
    layers are wrapped.

    Args:
        backbone: The teacher's model.
        lora: Rank, scale and place of the adapters.
        seed: Of A's random start.

    Raises:
        ImportError: peft is missing.
        ValueError: the layers asked for are not there or are smaller than the rank.
    """

    def __init__(self, backbone: WorldActionModel, lora: LoraConfig, *, seed: int = 0) -> None:
        if hasattr(backbone, "peft_config"):
            raise ValueError(f"this {type(backbone).__name__} carries adapters already; load it again")
        self.backbone, self.lora = backbone, lora
        self._names = _target_layers(backbone, lora)
        self._base = dict(backbone.requires_grad_(False).eval().named_parameters())
        self._active: str | None = STUDENT
        self._add(STUDENT, seed)
        self._switch(STUDENT)

    @property
    def base_parameters(self) -> Mapping[str, nn.Parameter]:
        """The backbone's own parameters by their names in the plain model."""
        return self._base

    def student(self) -> "AdaptedModel":
        """The role that is trained."""
        return AdaptedModel(self, STUDENT)

    def teacher(self) -> "AdaptedModel":
        """The backbone as it came."""
        return AdaptedModel(self, None)

    def copy(self, of: str | None, name: str) -> "AdaptedModel":
        """A role of its own memory, frozen, that starts as another one."""
        self._add(name, 0)
        for layer in self._layers.values():
            for matrices in (layer.lora_A, layer.lora_B):
                new = matrices[name].weight.data
                new.zero_() if of is None else new.copy_(matrices[of].weight.data)
        self._switch(self._active)
        return AdaptedModel(self, name)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """A and B of one adapter, by layer."""
        return {
            f"{key}.{side}.weight": getattr(layer, side)[name].weight
            for key, layer in self._layers.items()
            for side in ("lora_A", "lora_B")
        }

    @contextmanager
    def active(self, name: str | None) -> Iterator[None]:
        """Computes with one adapter, or with none; afterwards all is as before."""
        before = self._active
        if name == before:
            yield
            return
        try:
            self._switch(name)
            yield
        finally:
            self._switch(before)

    @contextmanager
    def merged(self, name: str | None) -> Iterator[WorldActionModel]:
        """The backbone as a plain model with one adapter added into its weights, for saving.

        The weights that differ are new tensors on the CPU; afterwards the old ones are back, untouched.
        """
        kept = {key: layer.base_layer.weight for key, layer in self._layers.items()}
        try:
            for key, layer in self._layers.items():
                if name is not None:
                    delta = layer.get_delta_weight(name).float()
                    weight = (kept[key].float() + delta).to(device="cpu", dtype=kept[key].dtype)
                    layer.base_layer.weight = nn.Parameter(weight, requires_grad=False)
                self._put(key, layer.base_layer)
            yield self.backbone
        finally:
            for key, layer in self._layers.items():
                layer.base_layer.weight = kept[key]
                self._put(key, layer)

    def _put(self, key: str, module: nn.Module) -> None:
        parent, _, child = key.rpartition(".")
        setattr(self.backbone.get_submodule(parent), child, module)

    def _add(self, name: str, seed: int) -> None:
        try:
            import peft
        except ImportError as error:
            raise ImportError("low-rank adapters need peft: pip install 'flashwam[lora]'") from error
        config = peft.LoraConfig(r=self.lora.rank, lora_alpha=self.lora.alpha, target_modules=list(self._names))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(config, self.backbone, name)
        self._layers = {key: self.backbone.get_submodule(key) for key in self._names}
        for parameter in self.parameters(name).values():
            # Small steps would be lost in a backbone's bfloat16.
            parameter.data = parameter.data.float()

    def _switch(self, name: str | None) -> None:
        """Turns one adapter on; the student's takes gradients whenever it is on, no other ever does."""
        for layer in self._layers.values():
            if name is None:
                layer.enable_adapters(False)
                continue
            if layer.disable_adapters:
                layer.enable_adapters(True)
            layer.set_adapter(name, inference_mode=name != STUDENT)
        self._active = name


class AdaptedModel(WorldActionModel):
    """One role: the shared backbone as it computes with one adapter, or with none.

    Its parameters and state dict are the adapter's alone (without an adapter: the backbone's own), so an optimiser, a
    moving average or a checkpoint made of them touches nothing that is shared.

    Args:
        adapters: The shared backbone.
        name: Of the adapter; None for the backbone alone.
    """

    def __init__(self, adapters: Adapters, name: str | None) -> None:
        super().__init__()
        # In a tuple, so that the backbone does not become a part of this module.
        self._shared = (adapters,)
        self.name = name
        backbone = adapters.backbone
        self.streams, self.shapes, self.chunk_frames = backbone.streams, backbone.shapes, backbone.chunk_frames
        self.weights = _tree(adapters.base_parameters if name is None else adapters.parameters(name))

    @property
    def adapters(self) -> Adapters:
        """The backbone that this role shares with others."""
        return self._shared[0]

    def frozen_copy(self, name: str) -> "AdaptedModel":
        """A further frozen role of the same backbone that starts as this one."""
        return self.adapters.copy(self.name, name).requires_grad_(False).eval()

    def velocity(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """See `WorldActionModel.velocity`."""
        with self.adapters.active(self.name):
            return self.adapters.backbone(noisy, sigma, clean, context)

    def session(
        self,
        text: Tensor,
        *,
        null_text: Tensor | None = None,
        guidance: Mapping[str, float] | None = None,
        **options: Any,
    ) -> RolloutSession:
        """See `WorldActionModel.session`; `options` are the family's own."""
        return _AdaptedSession(
            self, lambda: self.adapters.backbone.session(text, null_text=null_text, guidance=guidance, **options)
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the plain model that computes what this role does, in the family's own layout."""
        with self.adapters.merged(self.name) as model:
            model.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "AdaptedModel":
        """Not possible: what `save_pretrained` writes is a plain model of the backbone's family.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{folder} holds a plain model: load it with flashwam.load_wam, not as {cls.__name__}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AdaptedModel":
        # Moves the backbone with all its adapters; the parameters here are the same objects.
        self.adapters.backbone._apply(fn, recurse)
        return self


class _AdaptedSession(RolloutSession):
    """A rollout of one role; whatever it computes, now or later, is computed with that role's adapter."""

    def __init__(self, model: AdaptedModel, begin: Callable[[], RolloutSession]) -> None:
        self._adapters, self._name = model.adapters, model.name
        with self._adapters.active(self._name):
            self._session = begin()

    @property
    def frame_index(self) -> int:
        """See `RolloutSession`."""
        return self._session.frame_index

    def velocity(self, stream: str, noisy: Tensor, sigma: Tensor) -> Tensor:
        """See `RolloutSession.velocity`."""
        with self._adapters.active(self._name):
            return self._session.velocity(stream, noisy, sigma)

    def append(self, stream: str, clean: Tensor, *, predicted: bool) -> None:
        """See `RolloutSession.append`."""
        with self._adapters.active(self._name):
            self._session.append(stream, clean, predicted=predicted)

    def drop_predicted(self) -> None:
        """See `RolloutSession.drop_predicted`."""
        self._session.drop_predicted()

    def advance(self, frames: int) -> None:
        """See `RolloutSession.advance`."""
        with self._adapters.active(self._name):
            self._session.advance(frames)


def _target_layers(backbone: WorldActionModel, lora: LoraConfig) -> list[str]:
    """Names of the linear layers that get adapters."""
    targets = lora.targets or type(backbone).adapter_targets
    if not targets:
        raise ValueError(
            f"{type(backbone).__name__} names no layers for adapters by default; set lora.targets to the ends of the "
            "names of its linear layers"
        )
    linear = {key: module for key, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    found = {target: [key for key in linear if f".{key}".endswith(f".{target}")] for target in targets}
    absent = [target for target, keys in found.items() if not keys]
    if absent:
        ends = sorted({".".join(key.split(".")[-2:]) for key in linear})
        raise ValueError(
            f"lora.targets: {type(backbone).__name__} has no linear layer whose name ends in {absent}; its linear "
            f"layers end in {ends}"
        )
    names = sorted({key for keys in found.values() for key in keys})
    narrow = [key for key in names if min(linear[key].weight.shape) < lora.rank]
    if narrow:
        rows, columns = linear[narrow[0]].weight.shape
        raise ValueError(
            f"lora.rank must be at most the smaller side of every adapted layer; got {lora.rank}, but {narrow[0]} is "
            f"{rows} x {columns}"
        )
    return names


def _tree(parameters: Mapping[str, nn.Parameter]) -> nn.Module:
    """Modules that do nothing but hold parameters under their dotted names."""
    root = nn.Module()
    for name, parameter in parameters.items():
        *path, last = name.split(".")
        at = root
        for part in path:
            if part not in at._modules:
                at.add_module(part, nn.Module())
            at = at._modules[part]
        at.register_parameter(last, parameter)
    return root
