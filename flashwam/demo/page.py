# SPDX-License-Identifier: Apache-2.0
"""The page of a demo, written anew whenever a result comes."""

from collections.abc import Sequence
from pathlib import Path

from flashwam.demo.place import Place
from flashwam.report.analyze import measured_gradients, recipe_analysis
from flashwam.report.colours import run_colours
from flashwam.report.compare import gather
from flashwam.report.compare_page import compare_sections
from flashwam.report.page import write_page
from flashwam.report.real_time import real_time_curves
from flashwam.report.real_time_page import real_time_section
from flashwam.report.results import read_real_time_evaluations
from flashwam.report.schedule_page import schedule_sections
from flashwam.run.folder import RunFolder
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
    analysis = {"recipe": "flash_wam", **recipe_analysis(place.recipe("flash_wam"))}
    run = RunFolder(place.run("flash_wam", 0))
    if run.result("student").is_dir():
        analysis["measured"] = measured_gradients(analysis, run.metrics)
    sections = list(schedule_sections(analysis, place.out / "analysis"))
    runs = place.evaluated
    if runs:
        folder = place.out / "comparison"
        rows, curves, cross = gather(runs, folder)
        late = real_time_curves([one for run in runs for one in read_real_time_evaluations(run)])
        colours = run_colours(rows, (curve.run for curve in late if curve.kind == "student"))
        told = [real_time_section(late, folder, colours=colours)] if late else []
        compared = compare_sections(rows, folder, metrics=curves, cross=cross, colours=colours)
        sections = [*compared, *told, *sections]
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
        footer=f"Made by `flashwam demo --preset {preset} --family {place.family}`.",
    )
