# SPDX-License-Identifier: Apache-2.0
"""A role that shares its backbone with others, as a model of its own."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flashwam.distillation.adapter_file import save_adapter
from flashwam.distillation.adapters import Adapters
from flashwam.wam.base import WorldActionModel
from flashwam.wam.features import LooksInside
from flashwam.wam.session import RolloutSession

__all__ = ["HELD", "AdaptedLooker", "AdaptedModel", "adapted"]

HELD = "weights"
"""The name that a role's parameters stand under in its state dict."""


def adapted(adapters: Adapters, name: str | None) -> "AdaptedModel":
    """One role of a shared backbone, which can be looked into where the backbone can."""
    kind = AdaptedLooker if isinstance(adapters.backbone, LooksInside) else AdaptedModel
    return kind(adapters, name)


class AdaptedModel(WorldActionModel):
    """One role: the shared backbone as it computes with one adapter, or with none.

    Its parameters and state dict are the adapter's alone (without an adapter: the backbone's own), so an optimiser, a
    moving average or a checkpoint made of them touches nothing that is shared.

    Args:
        adapters: The shared backbone.
        name: Of the adapter; None for the backbone alone.
    """

    def __init__(self, adapters: Adapters, name: str | None) -> None:
        super().__init__(adapters.backbone.layout)
        # In a tuple, so that the backbone does not become a part of this module.
        self._shared = (adapters,)
        self.name = name
        self.add_module(HELD, _tree(adapters.base_parameters if name is None else adapters.parameters(name)))

    @property
    def adapters(self) -> Adapters:
        """The backbone that this role shares with others."""
        return self._shared[0]

    def frozen_copy(self, name: str) -> "AdaptedModel":
        """A further frozen role of the same backbone that starts as this one; without an adapter, this role again."""
        if self.name is None:
            return self
        self.adapters.copy(self.name, name)
        return adapted(self.adapters, name).requires_grad_(False).eval()

    def trainable_copy(self, name: str) -> "AdaptedModel":
        """A further role of the same backbone that starts as this one and is trained."""
        if self.name is None:
            self.adapters.add(name)
        else:
            self.adapters.copy(self.name, name)
            self.adapters.train(name)
        return adapted(self.adapters, name).train()

    def active(self) -> AbstractContextManager[None]:
        """A context in which the backbone is left as this role whenever no other one computes."""
        return self.adapters.active(self.name)

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

    @property
    def used_channels(self) -> tuple[int, ...] | None:
        """See `WorldActionModel.used_channels`."""
        return self.adapters.backbone.used_channels

    @property
    def drawn_with(self) -> Mapping[str, Any]:
        """See `WorldActionModel.drawn_with`."""
        return self.adapters.backbone.drawn_with

    @property
    def decided_by(self) -> Mapping[str, Any]:
        """See `WorldActionModel.decided_by`."""
        return self.adapters.backbone.decided_by

    def differences(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """See `WorldActionModel.differences`."""
        return self.adapters.backbone.differences(config)

    def deployed_parameters(self) -> dict[str, int]:
        """See `WorldActionModel.deployed_parameters`: an adapter is merged before it is deployed."""
        with self.adapters.merged(self.name) as model:
            return model.deployed_parameters()

    def compile_training(self, **options: Any) -> None:
        """See `WorldActionModel.compile_training`: of all roles, since they share the backbone."""
        self.adapters.backbone.compile_training(**options)

    def choose_rollout(self, rollout: str) -> None:
        """See `WorldActionModel.choose_rollout`: of all roles, since they share the backbone."""
        self.adapters.backbone.choose_rollout(rollout)

    @property
    def precision(self) -> str:
        """See `WorldActionModel.precision`."""
        return self.adapters.backbone.precision

    def choose_precision(self, precision: str) -> None:
        """See `WorldActionModel.choose_precision`: refused, until the adapters are merged."""
        self.adapters.backbone.choose_precision(precision)

    @property
    def warm_up_chunks(self) -> int:
        """See `WorldActionModel.warm_up_chunks`."""
        return self.adapters.backbone.warm_up_chunks

    @property
    def warm_up_sessions(self) -> int:
        """See `WorldActionModel.warm_up_sessions`."""
        return self.adapters.backbone.warm_up_sessions

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

    def pass_tokens(self, frames: int) -> int | None:
        """See `WorldActionModel.pass_tokens`."""
        return self.adapters.backbone.pass_tokens(frames)

    def draw_tokens(self, stage: tuple[str, ...]) -> int | None:
        """See `WorldActionModel.draw_tokens`."""
        return self.adapters.backbone.draw_tokens(stage)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the plain model that computes what this role does, in the family's own layout, and its adapter."""
        with self.adapters.merged(self.name) as model:
            model.save_pretrained(folder)
        if self.name is not None:
            parameters, lora = self.adapters.parameters(self.name), self.adapters.lora
            save_adapter(folder, parameters, lora, backbone=self.adapters.fingerprint())

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


class AdaptedLooker(AdaptedModel, LooksInside):
    """One role of a backbone that can be looked into."""

    @property
    def _looker(self) -> LooksInside:
        assert isinstance(self.adapters.backbone, LooksInside)
        return self.adapters.backbone

    @property
    def feature_blocks(self) -> int:
        """See `LooksInside.feature_blocks`."""
        return self._looker.feature_blocks

    def feature_width(self, blocks: Sequence[int]) -> int:
        """See `LooksInside.feature_width`."""
        return self._looker.feature_width(blocks)

    def feature_parameters(self, blocks: Sequence[int]) -> int:
        """See `LooksInside.feature_parameters`: an adapter is merged before it is deployed."""
        with self.adapters.merged(self.name):
            return self._looker.feature_parameters(blocks)

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
        with self.adapters.active(self.name):
            return self._looker.features(noisy, sigma, clean, context, blocks=blocks)

    def feature_session(self, text: Tensor, *, blocks: Sequence[int]) -> RolloutSession:
        """See `LooksInside.feature_session`."""
        return _AdaptedSession(self, lambda: self._looker.feature_session(text, blocks=blocks))


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

    @property
    def part_seconds(self) -> Mapping[str, float]:
        """See `RolloutSession`."""
        return self._session.part_seconds

    @property
    def clock(self) -> Callable[[], float]:
        """See `RolloutSession`."""
        return self._session.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self._session.clock = clock

    def velocity(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `RolloutSession.velocity`."""
        with self._adapters.active(self._name):
            return self._session.velocity(noisy, sigma)

    def features(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor], *, blocks: Sequence[int]) -> Tensor:
        """See `RolloutSession.features`."""
        with self._adapters.active(self._name):
            return self._session.features(noisy, sigma, blocks=blocks)

    def probe(self, noise: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> None:
        """See `RolloutSession.probe`."""
        with self._adapters.active(self._name):
            self._session.probe(noise, sigma)

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

    def amend(self, seen: Mapping[str, Tensor]) -> None:
        """See `RolloutSession.amend`."""
        with self._adapters.active(self._name):
            self._session.amend(seen)


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
