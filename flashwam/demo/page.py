# SPDX-License-Identifier: Apache-2.0
"""The page of a demo, written anew whenever a result comes."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from flashwam.demo.place import Place
from flashwam.recipe.load import load_recipe
from flashwam.report.analyze import measured_gradients, recipe_analysis
from flashwam.report.colours import run_colours
from flashwam.report.compare import gather
from flashwam.report.compare_page import compare_sections
from flashwam.report.film import find_film
from flashwam.report.next_page import next_section
from flashwam.report.page import Section, write_page
from flashwam.report.real_time import real_time_curves
from flashwam.report.real_time_page import real_time_section
from flashwam.report.results import read_real_time_evaluations
from flashwam.report.row import Row
from flashwam.report.schedule_page import schedule_sections
from flashwam.report.verdict import best_student
from flashwam.run.folder import RunFolder
from flashwam.system.errors import InputError
from flashwam.system.jobs import Job, done_marker

__all__ = ["write_demo_page"]


def write_demo_page(place: Place, preset: str, jobs: Sequence[Job]) -> Path:
    """Writes the analysis and all results that are there.

    Args:
        place: Of the demo.
        preset: Its name.
        jobs: Of the demo; the page says whether any is left.

    Returns:
        The page.
    """
    folder, runs = place.out / "comparison", place.evaluated
    rows, curves, cross = gather(runs, folder) if runs else ([], {}, None)
    sections = []
    if runs:
        late = real_time_curves([one for run in runs for one in read_real_time_evaluations(run)])
        colours = run_colours(rows, (curve.run for curve in late if curve.kind == "student"))
        sections += compare_sections(rows, folder, metrics=curves, cross=cross, colours=colours)
        sections += [real_time_section(late, folder, colours=colours)] if late else []
    sections += _analysis(place, best_student(rows))
    last = next_section(rows, _NEXT[preset])
    sections += [] if last is None else [last]
    left = sum(not done_marker(place.out / "jobs", job.name).is_file() for job in jobs)
    lead = (
        "Demonstrations from a physics simulator, a world-action model trained on them, and that teacher distilled to "
        "one step per stream by several methods, all driven in closed loop."
    )
    if left:
        lead += " **This page is not finished: results are added as they come.**"
    return write_page(
        place.out / "index.html",
        "From many steps to one: what was done, what it kept, and why",
        sections,
        lead=lead,
        film=find_film(folder, rows=rows),
        footer=f"Made by `flashwam demo --preset {preset} --family {place.family}`.",
    )


_LARGER = "Do the same at a larger size: `flashwam demo --preset {}`"
_NEXT = {
    "smoke": (_LARGER.format("quick"),),
    "quick": (_LARGER.format("pilot"),),
    "pilot": (_LARGER.format("full"),),
    "full": ("Count what a model of real size takes: `flashwam plan lingbot_va/libero/pairs --gpus 8 --memory 80`",),
}
"""Preset -> what follows it."""


def _analysis(place: Place, best: Row | None) -> list[Section]:
    """The analysis of the recipe that came out best; of Flash-WAM's until a student has been driven."""
    run = RunFolder(place.run("flash_wam", 0) if best is None else best.folders[0])
    recipe = place.recipe("flash_wam") if best is None else load_recipe(run.path)
    why = (
        f"This is the recipe `{recipe.name}`, whose student came out best."
        if best is not None
        else f"This is the recipe `{recipe.name}`; once students have been driven it will be that of the best."
    )
    analysis = {"recipe": recipe.name, **recipe_analysis(recipe)}
    if best is not None and run.metrics.is_file():
        # A method that learns at few levels logs no gradients over sigma.
        with suppress(InputError):
            analysis["measured"] = measured_gradients(analysis, run.metrics)
    return schedule_sections(analysis, place.out / "analysis", why=why)
