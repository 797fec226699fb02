# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML in, checked frozen sections out, with the origin of every key.

Imports core, and what it imports.
"""

from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import (
    AutoencoderConfig,
    DataConfig,
    EvaluateConfig,
    JudgeConfig,
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
    "JudgeConfig",
    "LoraConfig",
    "Recipe",
    "WamConfig",
    "load_recipe",
]
