# SPDX-License-Identifier: Apache-2.0
"""The way in which a teacher is drawn for rollouts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.core.streams import StreamSpec
from flashwam.run.folder import INFO_FILE
from flashwam.run.model_info import ModelInfo
from flashwam.sampling import StreamSampler, samplers_for

__all__ = ["teacher_samplers"]


def teacher_samplers(
    configs: Mapping[str, Mapping[str, Any]] | None, folder: Path | None
) -> dict[str, StreamSampler] | None:
    """Gives the samplers of a teacher: as its streams are given, or as its folder says; None where neither does."""
    kind = "teacher"
    if configs is not None:
        specs = {name: StreamSpec.from_config(name, config) for name, config in configs.items()}
    elif folder is not None and (folder / INFO_FILE).is_file():
        told = ModelInfo.read(folder)
        kind, specs = told.kind, dict(told.streams)
    else:
        return None
    steps = None if kind == "teacher" else {name: spec.steps for name, spec in specs.items()}
    return samplers_for(specs, steps=steps, teacher=kind == "teacher")
