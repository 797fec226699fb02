# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML in, checked frozen sections out, with the origin of every key.

Imports system and core.
"""

from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import (
    AutoencoderConfig,
    DataConfig,
    EvaluateConfig,
    LoopConfig,
    LoraConfig,
    Recipe,
    WamConfig,
)

__all__ = [
    "AutoencoderConfig",
    "DataConfig",
    "EvaluateConfig",
    "LoopConfig",
    "LoraConfig",
    "Recipe",
    "WamConfig",
    "load_recipe",
]
