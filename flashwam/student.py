# SPDX-License-Identifier: Apache-2.0
"""A model on disk: the family's own folder layout plus `flashwam.json`, which says how it must be sampled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashwam.core.streams import StreamSpec
from flashwam.provenance import provenance
from flashwam.wam import load
from flashwam.wam.base import WorldActionModel

__all__ = ["INFO_FILE", "WamInfo", "load_wam", "model_folder", "read_info", "save_wam"]

INFO_FILE = "flashwam.json"
_KINDS = ("student", "teacher")


@dataclass(frozen=True, slots=True, kw_only=True)
class WamInfo:
    """What `flashwam.json` says.

    Args:
        kind: "student" (sampled with its streams' consistency functions) or "teacher" (a velocity network).
        streams: Per-stream choices it was trained with, in generation order.
        steps: Optimiser steps of its training.
        extra: Everything else: name, teacher, recipe, weights, provenance, results.
    """

    kind: str
    streams: Mapping[str, StreamSpec]
    steps: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


def save_wam(
    folder: Path | str,
    model: WorldActionModel,
    streams: Mapping[str, StreamSpec],
    *,
    kind: str,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model and how it is to be sampled.

    Args:
        folder: Where to; created.
        model: The weights.
        streams: Per-stream choices, in generation order.
        kind: "student" or "teacher".
        info: Plain values to keep beside: steps, teacher, recipe, results.

    Raises:
        ValueError: for another kind, or streams that are not the model's.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {_KINDS}; got {kind!r}")
    if tuple(streams) != tuple(model.streams):
        raise ValueError(f"streams must be the model's {tuple(model.streams)}; got {tuple(streams)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    configs = {name: spec.config for name, spec in streams.items()}
    made = provenance()
    made["versions"] = made.pop("packages")
    content = {"kind": kind, "streams": configs, **(info or {}), **made}
    (folder / INFO_FILE).write_text(json.dumps(content, indent=2) + "\n")


def read_info(folder: Path | str) -> dict[str, Any]:
    """The plain content of `flashwam.json`.

    Raises:
        FileNotFoundError, ValueError: it is missing or not readable.
    """
    path = Path(folder) / INFO_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: expected a folder that flashwam saved. Another tool's checkpoint is loaded with its "
            "family's from_pretrained"
        )
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def model_folder(folder: Path | str) -> Path:
    """The folder of a model, given itself or its run's folder."""
    folder = Path(folder)
    for result in _KINDS:
        if not (folder / INFO_FILE).is_file() and (folder / result / INFO_FILE).is_file():
            return folder / result
    return folder


def load_wam(folder: Path | str, **options: Any) -> tuple[WorldActionModel, WamInfo]:
    """Loads what `save_wam` wrote.

    Args:
        folder: The model's folder.
        options: For the family's `from_pretrained`, such as device or dtype.

    Raises:
        FileNotFoundError: no such folder or a file of it is missing.
        ValueError: the consistency function, a stream or a key is not known.
    """
    content = read_info(folder)
    kind, configs = content.pop("kind", None), content.pop("streams", None)
    if kind not in _KINDS or not isinstance(configs, dict):
        raise ValueError(f"{Path(folder) / INFO_FILE} must say kind {_KINDS} and its streams; got kind {kind!r}")
    streams = {}
    for name, config in configs.items():
        try:
            streams[name] = StreamSpec.from_config(name, config)
        except ValueError as error:
            raise ValueError(f"{folder} cannot be sampled: {error}") from error
    model = load(folder, **options)
    if tuple(streams) != tuple(model.streams):
        raise ValueError(f"{folder}: its streams {tuple(streams)} are not the model's {tuple(model.streams)}")
    return model, WamInfo(kind=kind, streams=streams, steps=int(content.pop("steps", 0)), extra=content)
