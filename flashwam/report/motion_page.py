# SPDX-License-Identifier: Apache-2.0
"""Section of a comparison's page: what models imagined beside what then happened."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flashwam.report.alt_texts import motion_alt
from flashwam.report.colours import run_colours
from flashwam.report.figures import label_beside, name_lines, new_figure, save_figure, tidy
from flashwam.report.motion import MotionLink, correlation_text, motion_link
from flashwam.report.page import Figure, Section, Table
from flashwam.report.parts import figures_in_parts
from flashwam.report.row import Row

__all__ = ["draw_motion", "motion_section"]


def motion_section(rows: Sequence[Row], folder: Path, *, colours: Mapping[str, str] | None = None) -> Section | None:
    """Numbers, figure and films of the rows that show what they imagine; None where none does.

    Args:
        rows: In the order to show them.
        folder: For the PNG.
        colours: Run -> colour; those of `run_colours` of these rows if None.
    """
    colours = run_colours(rows) if colours is None else colours
    linked = [(row, link) for row in rows if (link := motion_link(row)) is not None]
    shown: dict[str, Row] = {}
    for row in sorted((r for r in rows if r.films and r.sampler == "own"), key=lambda r: r.total_nfe):
        if row.kind == "teacher":
            # The teacher as it is driven, not its single step.
            shown[row.run] = row
        else:
            shown.setdefault(row.run, row)
    if not linked and not shown:
        return None
    films = [
        Figure(
            path=row.films[0],
            caption=f"{row.label}: the first episode of every task, a picture a chunk. Tasks from above: "
            f"{', '.join(row.tasks)}. In each pair of lines above the simulator's, below the one imagined for the same "
            "moment when the chunk was drawn.",
            alt=f"Small pictures of a robot arm over a table, {len(row.tasks)} pairs of lines, one a task: what the "
            f"camera saw, and under it what {row.label} had imagined",
            photo=True,
        )
        for row in shown.values()
    ]
    numbers = _figures(linked, folder / "motion.png", colours) if linked else []
    return Section(
        heading="What they imagined, and what happened",
        paragraphs=(
            "Motion similarity is the cosine between two motion fields (Lucas and Kanade's): from the picture a chunk "
            "begins with to the picture imagined for its end, and to the picture taken there; 1 is the same motion, 0 "
            "none in common. r is its correlation with success over episodes, within tasks, with a 95 % interval. An "
            "episode that has failed already, stuck at a wall, say, is one whose motion nobody foresaw; the first "
            "chunk alone, before that, tells whether imagination foretells success. "
            "VideoVLA (arXiv 2512.06963) reports that imagined futures near the real ones go with success.",
        ),
        figures=(*numbers, *films),
        tables=(_table(linked),) if linked else (),
    )


def draw_motion(
    linked: Sequence[tuple[Row, MotionLink]],
    path: Path,
    *,
    among: Sequence[tuple[Row, MotionLink]] | None = None,
    colours: Mapping[str, str],
) -> Path:
    """Mean similarity of successes (filled) and failures (hollow), one line a row, r beside it.

    Args:
        linked: Rows with what was measured, the first above.
        path: PNG to write.
        among: All that these are a part of, so that the axes of parts agree; these alone if None.
        colours: Run -> colour.
    """
    told = [mean for _, link in among or linked for mean in (link.failed, link.succeeded) if mean is not None]
    margin = 0.04 * (max(told) - min(told)) + 0.01
    with new_figure(8.4, 1.0 + 0.31 * len(linked)) as figure:
        axes = figure.subplots()
        for y, (row, link) in enumerate(reversed(linked)):
            colour = colours[row.run]
            means = [m for m in (link.failed, link.succeeded) if m is not None]
            axes.plot([min(means), max(means)], [y, y], color=colour, lw=1.6, alpha=0.4)
            if link.failed is not None:
                axes.plot(link.failed, y, "o", ms=6.5, color="white", mec=colour, mew=1.6)
            if link.succeeded is not None:
                axes.plot(link.succeeded, y, "o", ms=6.5, color=colour, mec=colour)
            label_beside(axes, y, f"r {correlation_text(link.correlation)}", offset=8)
        name_lines(axes, [(row.label, colours[row.run]) for row, _ in linked])
        axes.set(xlim=(min(told) - margin, max(told) + margin), ylim=(-0.7, len(linked) - 0.3))
        axes.set(xlabel="motion similarity (filled: successes, hollow: failures)")
        axes.set_title("Imagined and real motion", fontsize=10.5)
        tidy(axes, grid="x")
        axes.spines["left"].set_visible(False)
        return save_figure(figure, path)


def _figures(linked: Sequence[tuple[Row, MotionLink]], path: Path, colours: Mapping[str, str]) -> list[Figure]:
    def make(part: Sequence[tuple[Row, MotionLink]], file: Path, told: str) -> Figure:
        return Figure(
            path=draw_motion(part, file, among=linked, colours=colours),
            caption=f"{told}Filled right of hollow: episodes whose motion was foreseen succeed more often.",
            alt=motion_alt(part),
        )

    return figures_in_parts(linked, lambda one: one[0], path, make)


def _table(linked: Sequence[tuple[Row, MotionLink]]) -> Table:
    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    return Table(
        columns=("model", "episodes", "similarity", "of successes", "of failures", "r with success", "r, first chunk"),
        rows=[
            [
                row.label,
                str(link.episodes),
                cell(link.similarity),
                cell(link.succeeded),
                cell(link.failed),
                correlation_text(link.correlation),
                correlation_text(link.foretold),
            ]
            for row, link in linked
        ],
        caption="Both r within tasks. Episodes that end within their first chunk have no picture after it and are not "
        "counted.",
    )
