# SPDX-License-Identifier: Apache-2.0
"""One backbone with a low-rank adapter per role: the teacher is the backbone alone, every other role adds its own.

An adapter adds (alpha / rank) B A x to the result of each adapted linear layer W x; only A and B are its own. B starts
at zero, so every role starts as the teacher.
"""

import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from flashwam.distillation.adapter_file import fingerprint, load_adapter
from flashwam.recipe.sections import LoraConfig
from flashwam.system.errors import InputError, MissingPackageError
from flashwam.wam.base import WorldActionModel

__all__ = ["STUDENT", "Adapters", "check_peft", "adapter_targets"]

STUDENT = "student"


def check_peft() -> None:
    """Refuses adapters where the package that wraps the layers is missing.

    Raises:
        ImportError: It is.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingPackageError("low-rank adapters need peft: pip install 'flashwam[lora]'")


class Adapters:
    """A backbone with exchangeable low-rank adapters.

    The student's adapter, or that of the role whose `active` is open, is switched on whenever nobody else computes, so
    that a backward pass that recomputes activations finds it there. The backbone is frozen and in evaluation mode, and
    is changed in place: its adapted layers are wrapped.

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
            raise InputError(f"this {type(backbone).__name__} carries adapters already; load it again")
        self.backbone, self.lora = backbone, lora
        self._names = _target_layers(backbone, lora)
        self._base = dict(backbone.requires_grad_(False).eval().named_parameters())
        self._seed, self._trained = seed, {STUDENT}
        self._add(STUDENT)

    @property
    def base_parameters(self) -> Mapping[str, nn.Parameter]:
        """The backbone's own parameters by their names in the plain model."""
        return self._base

    def fingerprint(self) -> str:
        """Tells this backbone from another one, by two of its adapted layers, at whatever precision."""
        return fingerprint(self.telling)

    @property
    def telling(self) -> dict[str, Tensor]:
        """The weights of two adapted layers, which tell this backbone from another."""
        return {key: self._layers[key].base_layer.weight for key in (self._names[0], self._names[-1])}

    def load(self, folder: Path | str) -> None:
        """Takes over the student's adapter from a model that an earlier training with adapters exported.

        Raises:
            FileNotFoundError, ValueError: it holds none, or one of another backbone, rank, scale or other layers.
        """
        noted = (self.fingerprint(), fingerprint(self.telling, rounded=False))
        load_adapter(folder, self.parameters(STUDENT), self.lora, backbone=noted)

    def add(self, name: str) -> None:
        """Makes an adapter `name` that is trained, from where the backbone alone stands."""
        self._trained.add(name)
        self._add(name)

    def train(self, name: str) -> None:
        """Lets an adapter take gradients."""
        self._trained.add(name)
        self._set_gradients()

    def copy(self, of: str, name: str) -> None:
        """Makes an adapter `name` that starts as another one and takes no gradient."""
        self._add(name)
        for layer in self._layers.values():
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[name].weight.data.copy_(matrices[of].weight.data)

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

        The weights that differ are new tensors on the CPU, in the backbone's dtype: a bfloat16 backbone rounds what is
        added to it. Afterwards the old weights are back, untouched.
        """
        kept = {key: layer.base_layer.weight for key, layer in self._layers.items()}
        try:
            for key, layer in self._layers.items():
                if name is not None:
                    delta = layer.get_delta_weight(name).detach().float()
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

    def _add(self, name: str) -> None:
        check_peft()
        import peft

        exactly = "|".join(map(re.escape, self._names))
        config = peft.LoraConfig(r=self.lora.rank, lora_alpha=self.lora.alpha, target_modules=exactly)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            torch.manual_seed(self._seed)
            peft.inject_adapter_in_model(config, self.backbone, name)
        self._layers = {key: self.backbone.get_submodule(key) for key in self._names}
        for parameter in self.parameters(name).values():
            # Small steps would be lost in a backbone's bfloat16.
            parameter.data = parameter.data.float()
        self._set_gradients()
        self._switch(STUDENT)

    def _set_gradients(self) -> None:
        """As each adapter is trained or not: peft lets the one that was added last take gradients, and no other."""
        for name in next(iter(self._layers.values())).lora_A:
            for parameter in self.parameters(name).values():
                parameter.requires_grad_(name in self._trained)

    def _switch(self, name: str | None) -> None:
        # Not by peft's set_adapter, which turns gradients on and off too: 30 ms for 300 layers, as long as a pass.
        for layer in self._layers.values():
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        self._active = name


def adapter_targets(kind: type[WorldActionModel], lora: LoraConfig) -> tuple[str, ...]:
    """Ends of the names of the layers that adapters go to in a model of a class.

    Raises:
        ValueError: Neither the recipe nor the class names any.
    """
    targets = lora.targets or kind.adapter_targets
    if not targets:
        raise InputError(
            f"{kind.__name__} names no layers for adapters by default; set lora.targets to the ends of the names of "
            "its linear layers"
        )
    return tuple(targets)


def _target_layers(backbone: WorldActionModel, lora: LoraConfig) -> list[str]:
    """Names of the linear layers that get adapters."""
    targets = adapter_targets(type(backbone), lora)
    linear = {key: module for key, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    found = {target: [key for key in linear if f".{key}".endswith(f".{target}")] for target in targets}
    absent = [target for target, keys in found.items() if not keys]
    if absent:
        ends = sorted({".".join(key.split(".")[-2:]) for key in linear})
        raise InputError(
            f"lora.targets: {type(backbone).__name__} has no linear layer whose name ends in {absent}; its linear "
            f"layers end in {ends}"
        )
    names = sorted({key for keys in found.values() for key in keys})
    narrow = [key for key in names if min(linear[key].weight.shape) < lora.rank]
    if narrow:
        rows, columns = linear[narrow[0]].weight.shape
        raise InputError(
            f"lora.rank must be at most the smaller side of every adapted layer; got {lora.rank}, but {narrow[0]} is "
            f"{rows} x {columns}"
        )
    return names
