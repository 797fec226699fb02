# SPDX-License-Identifier: Apache-2.0
"""World-action model families behind one contract."""

import json
from pathlib import Path
from typing import Any

from flashwam.core.imports import find_class
from flashwam.wam.base import RolloutSession, WorldActionModel

__all__ = ["FAMILIES", "RolloutSession", "WorldActionModel", "family", "load"]

FAMILIES = {
    "cogvideox": "flashwam.wam.cogvideox:CogVideoX",
    "foresight": "flashwam.policies.foresight:ForesightPolicy",
    "fusion": "flashwam.policies.fusion:FusionPolicy",
    "lingbot_va": "flashwam.wam.lingbot_va:LingBotVA",
    "smolvla": "flashwam.policies.smolvla:SmolVLA",
}
"""Family -> import path of its class; "package.module:Class" works as a family's name too."""


def family(name: str) -> type[WorldActionModel]:
    """The class of a family, by name or import path.

    Raises:
        ValueError: for an unknown name, or a path that does not lead to a `WorldActionModel`.
    """
    return find_class(name, WorldActionModel, known=FAMILIES, what="model family")


def load(folder: Path | str, **options: Any) -> WorldActionModel:
    """Loads a model folder of any family; `wam.json` in it names the family.

    Args:
        folder: What `save_pretrained` wrote.
        options: For the family's `from_pretrained`, such as device or dtype.

    Raises:
        FileNotFoundError: there is no `wam.json`.
        ValueError: the family is unknown or the weights do not fit.
    """
    path = Path(folder) / "wam.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a model folder that flashwam saved")
    return family(str(json.loads(path.read_text()).get("family"))).from_pretrained(folder, **options)
