# SPDX-License-Identifier: Apache-2.0
"""A family whose model is a network with a configuration of its own, and a dataclass of settings beside it."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel
from flashwam.wam.plain import differing

__all__ = ["Configured"]


class Configured(WorldActionModel):
    """What such a model was made with.

    Attributes:
        config: The dataclass.
        transformer: The network; its `config` is a mapping of its keywords.
        fitted: Keywords of the network that are fitted to weights and chunk, whatever was asked for.
    """

    config: Any
    transformer: Any
    fitted: ClassVar[tuple[str, ...]] = ()

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
