# SPDX-License-Identifier: Apache-2.0
"""The table of a comparison, for a terminal or a README, and the notes that it needs."""

from collections.abc import Mapping, Sequence

from flashwam.core.sampler_name import sampler_options, sampler_suffix
from flashwam.core.temperature import noise_text
from flashwam.report.against import teacher_of
from flashwam.report.row import GROUPS, Row, milliseconds_text

__all__ = ["format_table", "group_cells", "markdown_table", "table_notes", "text_table"]

_ALWAYS = ("model", "NFE", "trainings", "episodes")
_WHERE_KNOWN = (
    *(column for group in GROUPS for column in (group, f"{group}, of teacher")),
    "left/right/none",
    "commitment",
    "ms a chunk",
    "speed-up",
    "parameters",
    "training, min",
)


def format_table(rows: Sequence[Row], *, markdown: bool = False, teacher: Row | None = None) -> str:
    """The comparison in a few lines, for a terminal or, with `markdown`, for a README.

    Args:
        rows: In order.
        markdown: For a README.
        teacher: What speed-ups are against; each one's own if None, see `teacher_of`.
    """
    lines = []
    for row in (r for r in rows if r.final):
        goal = teacher_of(row, rows) if teacher is None else teacher
        full = None if goal is None else goal.latency.get("chunk_ms")
        milliseconds = row.latency.get("chunk_ms")
        lines.append(
            {
                "model": row.label,
                "NFE": str(row.total_nfe or "-"),
                "trainings": "-" if row.kind == "baseline" else str(row.trainings),
                "episodes": f"{row.share().episodes:,}",
                **group_cells(row),
                "ms a chunk": milliseconds_text(milliseconds) if milliseconds else "-",
                "speed-up": f"{full / milliseconds:.1f}x" if full and milliseconds else "-",
                "parameters": row.parameters_text or "-",
                "training, min": row.cost_text or "-",
            }
        )
    known = {name for line in lines for name, cell in line.items() if cell != "-"}
    head = [*_ALWAYS, *(name for name in _WHERE_KNOWN if name in known)]
    body = [[line[name] for name in head] for line in lines]
    return text_table(head, body, markdown=markdown)


def markdown_table(rows: Sequence[Row]) -> str:
    """The table and its notes, as a file."""
    notes = "\n".join(f"- {note}" for note in table_notes(rows))
    return f"{format_table(rows, markdown=True)}\n\n{notes}\n"


def group_cells(row: Row) -> Mapping[str, str]:
    """Writes a row's success in each group of tasks and over its teacher's, and the ways that it took."""
    cells = {}
    for group, several in GROUPS.items():
        share, kept = row.share(multimodal=several), row.kept.get(group)
        low, high = share.interval
        # Episodes alone are what an interval can rest on where nothing is paired.
        beside = "" if kept is not None and kept.paired else f" [{low:.2f}, {high:.2f}]"
        cells[group] = f"{share.rate:.2f}{beside}" if share.episodes else "-"
        cells[f"{group}, of teacher"] = "-" if kept is None else kept.ratio_text
    several_ways = row.share(multimodal=True)
    cells["left/right/none"] = several_ways.ways_text or "-"
    cells["commitment"] = "-" if several_ways.commitment is None else f"{several_ways.commitment:.2f}"
    return cells


def table_notes(rows: Sequence[Row]) -> list[str]:
    """Explains, where they occur, the columns whose numbers rest on something that their names do not say."""
    shown = [row for row in rows if row.final and row.driven]
    kept = [found for row in shown for found in row.kept.values()]
    notes = []
    if any(found.paired for found in kept):
        notes.append(
            "Of teacher: success over the teacher's in the same scenes, with a 95 % interval that holds trainings and "
            "scenes (drawn anew at both levels, episodes paired); from one training it holds scenes alone."
        )
    if any(not found.paired for found in kept):
        notes.append(
            "Of teacher, without an interval: those evaluations do not tell the outcome of each episode, so that "
            "nothing can be paired."
        )
    unpaired = [row for row in shown if not (row.kept and all(found.paired for found in row.kept.values()))]
    if unpaired:
        notes.append("Two-way and one-way, with an interval: Wilson's over episodes, where nothing is paired.")
    if any(row.repeats_states for row in unpaired):
        notes.append(
            "Wilson's interval takes episodes that began in one initial state, at several seeds, for independent ones: "
            "it is narrower than what is known of other states."
        )
    cooled = {
        sampler_suffix(row.sampler, student=False).strip(): temperature
        for row in shown
        if (temperature := sampler_options(row.sampler)["temperature"]) is not None
    }
    if cooled:
        told = "; ".join(f'"{named}": every chunk begins with {noise_text(each)}' for named, each in cooled.items())
        notes.append(f"{told}; other rows with as much as the model says.")
    if any(row.convention for row in shown):
        notes.append(
            "In brackets: the convention that LIBERO was driven under. Success under one is not held against success "
            "under another."
        )
    if any(row.share().ways for row in shown):
        notes.append(
            "Left/right/none: episodes of the two-way tasks by the way that the hand took. Commitment: share of their "
            "first chunks that clearly leave to one side."
        )
    if any(row.guided for row in shown):
        notes.append("NFE counts a guided step once, though the network is evaluated for it with the text and without.")
    if any(row.round_trip and row.latency for row in shown):
        notes.append("Ms a chunk: what a served model's client waited, with pictures, messages and wire.")
    elif any(row.latency.get("chunk_ms") for row in shown):
        notes.append("Ms a chunk: one for each network and number of steps, the median of all models that have it.")
    return notes


def text_table(head: Sequence[str], body: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Sets cells in columns, the first to the left and the others to the right, for a terminal or, with `markdown`, for
    a README."""
    if markdown:
        barred = [[cell.replace("|", "\\|") for cell in cells] for cells in (head, *body)]
        first, *others = [f"| {' | '.join(cells)} |" for cells in barred]
        return "\n".join([first, "|---" + "|---:" * (len(head) - 1) + "|", *others])
    widths = [max(len(cells[i]) for cells in (head, *body)) for i in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in (head, ["-" * w for w in widths], *body)
    ]
    return "\n".join(text)
