# SPDX-License-Identifier: Apache-2.0
"""A family whose model is a network with a configuration of its own, and a dataclass of settings beside it."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel
from flashwam.wam.plain import differing

__all__ = ["Configured"]


class Configured(WorldActionModel):
    """Knows the settings that such a model was made with, and those that decide its draws.

    Attributes:
        config: The dataclass.
        transformer: The network; its `config` is a mapping of its keywords.
        draw_settings: Fields of `config` that decide draws and that no weight shows.
        fitted: Keywords of the network that are fitted to weights and chunk, whatever was asked for.
    """

    config: Any
    transformer: Any
    draw_settings: ClassVar[tuple[str, ...]] = ()
    fitted: ClassVar[tuple[str, ...]] = ()
    _said: Mapping[str, Any] = MappingProxyType({})

    def said_by_folder(self, settings: Mapping[str, Any]) -> Self:
        """Notes which fields of `config` the folder of the weights itself gave, and returns the model."""
        self._said = dict(settings)
        return self

    @property
    def drawn_with(self) -> dict[str, Any]:
        """See `WorldActionModel.drawn_with`."""
        usual = {each.name: each.default for each in fields(self.config) if each.default is not MISSING}
        usual |= self._said
        held = self.decided_by
        return {name: value for name, value in held.items() if name not in usual or usual[name] != value}

    @property
    def decided_by(self) -> dict[str, Any]:
        """See `WorldActionModel.decided_by`."""
        return {name: getattr(self.config, name) for name in self.draw_settings}

    def differences(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """See `WorldActionModel.differences`."""
        own = {each.name: getattr(self.config, each.name) for each in fields(self.config)}
        given = {key: value for key, value in config.items() if key in own}
        try:
            # As the family itself would keep them: in its own order, with its own values for null.
            made = replace(self.config, **given)
        except (InputError, TypeError):
            made = None
        given = {key: value if made is None else getattr(made, key) for key, value in given.items()}
        network = {key: value for key, value in config.items() if key not in own and key not in self.fitted}
        return differing({**given, **network}, {**self.transformer.config, **own}, but=self.compute_options)
