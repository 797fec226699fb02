# SPDX-License-Identifier: Apache-2.0
"""Makes a student's folder one that LeRobot's ``--policy.path`` takes: three small files, no weights."""

import dataclasses
from pathlib import Path

from lerobot.configs import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION

from flashwam.serve.model import ServedModel
from flashwam.system.hub import is_on_hub
from flashwam.system.paths import user_path

from .configuration_flashwam import FlashwamConfig
from .processor_flashwam import make_flashwam_pre_post_processors

__all__ = ["write_policy"]


def write_policy(config: FlashwamConfig, model: ServedModel, folder: Path, *, student: Path) -> Path:
    """Writes ``config.json``, ``policy_preprocessor.json`` and ``policy_postprocessor.json``.

    Args:
        config: The options to write; a `base` that is no name on the hub is named by its full path.
        model: Says what is seen, felt and done.
        folder: Is made where it does not exist; files of these names are replaced.
        student: The model's folder, which the files name by its full path unless they lie in it.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inside = folder.resolve() == student.resolve()
    saved = dataclasses.replace(
        config,
        student=None if inside else str(student.resolve()),
        base=config.base if config.base is None or is_on_hub(config.base) else str(user_path(config.base).resolve()),
        pretrained_path=None,
        input_features=_seen(config, model),
        output_features={ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(int(model.metadata["controls"]),))},
    )
    # Chosen anew on the machine that loads it.
    saved.device = None
    saved._save_pretrained(folder)
    for pipeline in make_flashwam_pre_post_processors(saved):
        pipeline.save_pretrained(folder)
    return folder


def _seen(config: FlashwamConfig, model: ServedModel) -> dict[str, PolicyFeature]:
    height, width = model.metadata["picture_size"]
    features = {
        config.cameras.get(camera, camera): PolicyFeature(type=FeatureType.VISUAL, shape=(3, int(height), int(width)))
        for camera in model.metadata["cameras"]
    }
    for name, size in model.metadata.get("senses", {}).items():
        features[f"observation.{name}"] = PolicyFeature(type=FeatureType.STATE, shape=(int(size),))
    return features
