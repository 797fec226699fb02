# SPDX-License-Identifier: Apache-2.0
"""Reads what a run logged: `metrics.jsonl`, one JSON object per line with "step" and keys like "video/loss"."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.report.study import find_study, study_curves
from flashwam.run.folder import SIGMA_BINS, RunFolder
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.paths import user_path

__all__ = ["find_metrics", "gradient_bins", "has_metrics", "read_metrics", "running_mean", "series"]


def find_metrics(path: Path | str) -> Path:
    """Finds the `metrics.jsonl` of a run, from the run's folder, anything inside it, or its folder in a study.

    Raises:
        FileNotFoundError: where there is none.
    """
    start = user_path(path)
    for folder in (start, *list(start.resolve().parents)[:3]):
        if RunFolder(folder).metrics.is_file():
            return RunFolder(folder).metrics
    if _in_study(start) is not None:
        return RunFolder(start).metrics
    raise MissingFileError(
        f"no {RunFolder(start).metrics.name} in {start} or the three folders above it; expected a run made by "
        "`flashwam distill`"
    )


def has_metrics(run: Path) -> bool:
    """Tells whether `read_metrics` finds the curves of a run, in its folder or in its study."""
    return RunFolder(run).metrics.is_file() or _in_study(run) is not None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads every whole line of the file; a last line cut off by a kill is left out.

    Args:
        path: The file; where there is none, and its folder is that of a run in a study, the study's curves are read.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: for a broken line that is not the last.
    """
    if not path.is_file() and (rows := _in_study(path.parent)) is not None:
        return rows
    lines = path.read_text(errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise InputError(f"{path}, line {number}: not JSON ({error}); expected one object per line") from error
            continue
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise InputError(f'{path}, line {number}: expected an object with a "step"; got {line[:60]}')
        rows.append(row)
    return rows


def series(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one key, where it was logged and finite."""
    found = [(row["step"], row[key]) for row in rows if key in row and _finite(row[key])]
    return [step for step, _ in found], [float(value) for _, value in found]


def running_mean(values: Sequence[float]) -> np.ndarray:
    """Means over a twenty-fifth of a curve, one a value; the ends are held."""
    width = max(1, len(values) // 25)
    padded = np.pad(np.asarray(values, dtype=float), (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def gradient_bins(rows: Sequence[dict[str, Any]], stream: str) -> dict[str, Any] | None:
    """RMS over the run of `<stream>/grad_sigma_bin_k`, see `SIGMA_BINS`.

    Returns:
        {"edges": (low, high) per bin, "gradient": RMS, "steps": logged lines} for the bins that ever had a gradient, or
        None.
    """
    pattern = re.compile(re.escape(stream) + r"/grad_sigma_bin_(\d+)$")
    keys = {int(match.group(1)): key for row in rows for key in row if (match := pattern.match(key))}
    if not keys:
        return None
    edges, gradient, steps = [], [], 0
    for k in sorted(keys):
        _, values = series(rows, keys[k])
        power = sum(v * v for v in values) / len(values) if values else 0.0
        steps = max(steps, len(values))
        if power > 0:
            edges.append((k / SIGMA_BINS, (k + 1) / SIGMA_BINS))
            gradient.append(math.sqrt(power))
    return {"edges": edges, "gradient": gradient, "steps": steps} if edges else None


def _in_study(run: Path) -> list[dict[str, Any]] | None:
    study = find_study(run)
    return None if study is None else study_curves(study).get(run)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
