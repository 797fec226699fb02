# SPDX-License-Identifier: Apache-2.0
"""flashwam: slow world-action models in, one-step students and an explanation out.

The names below are the public API; they are imported when first used, so that `import flashwam` stays light.
"""

import importlib
from typing import Any

__all__ = [
    "ConsistencyFunction",
    "NoiseSchedule",
    "StreamSpec",
    "WorldActionModel",
    "analyze",
    "collect",
    "compare",
    "distill",
    "evaluate",
    "evaluate_recordings",
    "load_recipe",
    "load_wam",
    "train",
]

_HOME = {
    "ConsistencyFunction": "flashwam.core.consistency",
    "NoiseSchedule": "flashwam.core.noise",
    "StreamSpec": "flashwam.core.streams",
    "WorldActionModel": "flashwam.wam.base",
    "analyze": "flashwam.report.analyze",
    "collect": "flashwam.pipeline.data",
    "compare": "flashwam.report.compare",
    "distill": "flashwam.pipeline.training",
    "evaluate": "flashwam.evaluation.local",
    "evaluate_recordings": "flashwam.evaluation.recordings",
    "load_recipe": "flashwam.recipe.load",
    "load_wam": "flashwam.student",
    "train": "flashwam.pipeline.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flashwam' has no attribute {name!r}; it has {', '.join(__all__)}")
    # Kept, so that the import happens once.
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
