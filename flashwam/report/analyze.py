# SPDX-License-Identifier: Apache-2.0
"""`flashwam analyze`: the schedule analysis of a recipe as JSON, figures and one page that explains them."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flashwam.core.consistency import ConsistencyFunction, make_consistency_function
from flashwam.core.schedule import Schedule
from flashwam.core.streams import make_schedule
from flashwam.distillation.methods.handing_on import Following
from flashwam.recipe.sections import Recipe
from flashwam.report.metrics import find_metrics, gradient_bins, read_metrics
from flashwam.report.page import write_page
from flashwam.report.schedule import schedule_analysis
from flashwam.report.schedule_page import schedule_sections
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.paths import user_path

__all__ = ["analyze", "measured_gradients", "recipe_analysis"]

logger = logging.getLogger(__name__)


def analyze(recipe: Recipe, *, out: Path | str, checkpoint: Path | str | None = None) -> dict[str, Any]:
    """Analyses the schedules of a recipe and writes `schedule.json`, PNG figures and `schedule.html` into `out`.

    Args:
        recipe: Only its name, streams and method are read; no model is built.
        out: Folder to write into; made if absent.
        checkpoint: A run folder, or anything inside one, whose measured gradients are laid over the theory.

    Returns:
        What `schedule.json` holds: `flashwam.report.schedule.schedule_analysis` plus `recipe`, `measured` (stream ->
        bins, where a checkpoint was given) and `page`.

    Raises:
        FileNotFoundError: where `checkpoint` belongs to no run with metrics.
        ValueError: where those metrics hold no gradients per sigma bin.
    """
    out = user_path(out)
    analysis: dict[str, Any] = {"recipe": recipe.name, **recipe_analysis(recipe)}
    if checkpoint is not None:
        analysis["measured"] = measured_gradients(analysis, find_metrics(checkpoint))
    sections = schedule_sections(analysis, out)
    page = write_page(
        out / "schedule.html",
        f"Schedule analysis: {recipe.name}",
        sections,
        lead="What each stream's student starts from, whether it is trained where it is used, and which consistency "
        "function fits, told from the recipe alone: no weights, no data, no training.",
        footer=f"Made by `flashwam analyze {recipe.name}`. The numbers are in `schedule.json` beside this page.",
    )
    analysis["page"] = str(page)
    write_whole(out / "schedule.json", json.dumps(analysis, indent=1, allow_nan=False) + "\n")
    logger.info("schedule analysis of %s: %s", recipe.name, page)
    return analysis


def recipe_analysis(recipe: Recipe) -> dict[str, Any]:
    """`schedule_analysis` of a recipe's streams under its own distillation, `consistency` where it has none."""
    if recipe.distill is None:
        analysis = schedule_analysis(recipe.streams)
        analysis["notes"].append("this recipe distils nothing; it is analysed as consistency would distil it.")
        return analysis
    loop = recipe.distill
    return schedule_analysis(recipe.streams, method=loop.method, options=loop.options, following=Following.of(loop))


def measured_gradients(analysis: Mapping[str, Any], metrics: Path) -> dict[str, Any]:
    """Per stream the RMS gradient per sigma bin of a run beside |b|'s RMS over the same bin.

    Returns:
        Stream -> {"edges", "gradient", "theory", "sigma", "scale", "log10_deviation", "steps"}; streams that were not
        distilled are left out. `sigma` is where |b| equals the bin's RMS, `scale` the best factor between measured
        and theory, and the deviation the RMS of log10(measured / (scale theory)): 0 is exact proportion.

    Raises:
        ValueError: where the run logged no gradients per bin for any distilled stream.
    """
    rows = read_metrics(metrics)
    measured = {}
    for name, numbers in analysis["streams"].items():
        bins = gradient_bins(rows, name)
        if numbers["weight"] == 0 or bins is None:
            continue
        own = make_consistency_function(numbers["functions"][numbers["weighs_as"]]["config"])
        schedule = make_schedule(numbers["schedule"])
        sigma, theory = zip(*(_bin_theory(own, schedule, low, high) for low, high in bins["edges"]), strict=True)
        logs = [math.log(g / b) for g, b in zip(bins["gradient"], theory, strict=True)]
        scale = math.exp(sum(logs) / len(logs))
        deviation = math.sqrt(sum((x - math.log(scale)) ** 2 for x in logs) / len(logs)) / math.log(10)
        measured[name] = bins | {
            "sigma": sigma,
            "theory": theory,
            "scale": scale,
            "log10_deviation": deviation,
        }
    if not measured:
        raise InputError(
            f"{metrics} holds no gradients per sigma bin (keys such as 'video/grad_sigma_bin_3'); distil with "
            "distill.diagnose_every > 0"
        )
    return measured


def _bin_theory(function: ConsistencyFunction, schedule: Schedule, low: float, high: float) -> tuple[float, float]:
    """(sigma with |b(sigma)| = RMS, RMS of |b|) over the draws of one bin."""
    u = torch.linspace(float(schedule.u(low)), float(schedule.u(high)), 1001, dtype=torch.float64)
    scale = function.gradient_scale(schedule.sigma(u))
    rms = float(torch.sqrt((scale**2).mean()))
    return float(schedule.sigma(u)[(scale - rms).abs().argmin()]), rms
