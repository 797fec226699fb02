# SPDX-License-Identifier: Apache-2.0
"""Models from less noise than they were trained with, held against themselves in the same scenes: table and figure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from matplotlib.lines import Line2D

from flashwam.core.sampler_name import sampler_options
from flashwam.core.scenes import evaluation_episode
from flashwam.report.against import compare_rows
from flashwam.report.colours import run_colours
from flashwam.report.comparison import Comparison, signed_points
from flashwam.report.figures import INK, new_figure, save_figure, tidy
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.row import GROUPS, Row, Share
from flashwam.report.table import text_table
from flashwam.run.folder import RunFolder
from flashwam.system.files import write_whole

SECOND = 100
"""Seeds from here on are of a second set of scenes, see `again` in one_step.yaml."""
SHOWN = ("two-way", "one-way")
GREYS = (INK, "#5b6470", "#8b929d", "#b4bac4")
HEAD = (
    *("model", "temperature", "trainings", "episodes"),
    *(f"{group}{told}" for group in SHOWN for told in ("", ", points")),
    "left/right/none",
)
AGAINST = ("student", "teacher", "episodes", "successes", "the teacher's", "points", *(f"{g}, points" for g in SHOWN))


def cooler_folder(run: Path) -> Path:
    """The folder of a run's evaluations from less noise, apart from those that every comparison of runs reads."""
    return RunFolder(run / "cooler").evaluations


def cooler_runs(runs: Sequence[Path | str]) -> list[Path]:
    """The folders beside runs that hold their evaluations from less noise, of those that have any."""
    folders = [cooler_folder(Path(run)) for run in runs]
    return [folder.parent for folder in folders if folder.is_dir()]


class Warmth(NamedTuple):
    """A temperature of all streams, or of one alone, named; those of all come first, from the warmest down."""

    stream: str
    value: float

    @property
    def order(self) -> tuple[str, float]:
        return (self.stream, -self.value)

    @property
    def text(self) -> str:
        return f"{self.stream} {self.value:g}".strip()


UNIT = Warmth("", 1.0)
Found = dict[str, dict[Warmth, Row]]
"""Name with steps -> temperature -> row."""


def _warmth(row: Row) -> Warmth | None:
    """A row's temperature; None of one that was sampled in yet another way, or with several temperatures."""
    options = sampler_options(row.sampler)
    if options["plain_euler"] or options["unit_amplitude"]:
        return None
    asked = options["temperature"]
    if not isinstance(asked, Mapping):
        return UNIT if asked is None else Warmth("", asked)
    return Warmth(*next(iter(asked.items()))) if len(asked) == 1 else None


def by_temperature(rows: Sequence[Row]) -> Found:
    """Models driven at several temperatures: teachers and unit noise first."""
    found: Found = {}
    for row in (row for row in rows if row.final and row.driven):
        if (warmth := _warmth(row)) is not None:
            found.setdefault(f"{row.run} {row.steps_text}", {})[warmth] = row
    several = [(name, told) for name, told in found.items() if len(told) > 1 and UNIT in told]
    several.sort(key=lambda each: (each[1][UNIT].kind != "teacher", -each[1][UNIT].total_nfe, each[0]))
    return {name: {warm: told[warm] for warm in sorted(told, key=lambda one: one.order)} for name, told in several}


def _least_driven(told: Mapping[Warmth, Row]) -> Row:
    """The row in whose scenes all of a model's are shown."""
    return min(told.values(), key=lambda row: row.share().episodes)


def lines(found: Found) -> Iterator[list[str]]:
    """The table's rows; each model is counted over the seeds that it was driven at at all of its temperatures."""
    for told in found.values():
        least = _least_driven(told)
        for warm, row in told.items():
            ours = _in_scenes_of(row, least)
            cells = []
            for group in SHOWN:
                share = ours.share(multimodal=GROUPS[group])
                against = compare_rows(ours, told[UNIT], multimodal=GROUPS[group]) if warm != UNIT else None
                cells += [f"{share.rate:.2f}", "-" if against is None else _points(against)]
            trainings = "1" if row.kind == "teacher" else str(least.trainings)
            episodes = f"{ours.share().episodes:,}"
            yield [row.label, warm.text, trainings, episodes, *cells, ours.share(multimodal=True).ways_text]


def _in_scenes_of(row: Row, other: Row) -> Row:
    """A row over the seeds and episodes alone that another of the same model has too."""
    outcomes = {
        training: {episode: won for episode, won in episodes.items() if episode in other.outcomes.get(training, ())}
        for training, episodes in row.outcomes.items()
    }
    return replace(row.beside(other), outcomes=outcomes)


def against_teacher(found: Found) -> Iterator[list[str]]:
    """Every student against its teacher at most steps: from unit noise against all temperatures that both were driven
    at, and those of one stream alone; from less noise against unit noise and as much."""
    teachers = [told for told in found.values() if told[UNIT].kind == "teacher"]
    if not teachers:
        return
    teacher = max(teachers, key=lambda told: told[UNIT].total_nfe)
    for told in (told for told in found.values() if told[UNIT].kind == "student"):
        for warm, row in told.items():
            both = [other for other in teacher if other in told or other.stream]
            for other in both if warm == UNIT else (UNIT, warm):
                if other in teacher and row.pairs(teacher[other]):
                    yield _against(row, teacher[other])


def _against(row: Row, teacher: Row) -> list[str]:
    ours, theirs, episodes = (sum(counts) for counts in zip(*row.pairs(teacher).counts, strict=True))
    compared = [compare_rows(row, teacher, multimodal=several) for several in (None, *map(GROUPS.get, SHOWN))]
    points = ["-" if one is None else _points(one) for one in compared]
    return [row.label, teacher.label, str(episodes), str(ours), str(theirs), *points]


def _points(found: Comparison) -> str:
    return f"{signed_points(found.value)} [{found.span_text}]"


def in_second_scenes(found: Found) -> Found:
    """The same in the second set of scenes alone, of those who were driven there at several temperatures too."""
    rows = [_of_second(row) for told in found.values() for row in told.values()]
    return by_temperature([row for row in rows if row.seeds])


def _of_second(row: Row) -> Row:
    outcomes = {
        training: {(task, scene): won for (task, scene), won in episodes.items() if _seed_of(scene) >= SECOND}
        for training, episodes in row.outcomes.items()
    }
    return replace(row, seeds=tuple(part for part in row.seeds if (part[0] or 0) >= SECOND), outcomes=outcomes)


def _seed_of(scene: int) -> int:
    asked = evaluation_episode(scene)
    return -1 if asked is None else asked[0]


def tables(found: Found) -> str:
    """Everybody against himself from unit noise, then students against their teacher, in Markdown; then the same of the
    second set of scenes."""
    second = in_second_scenes(found)
    parts = [
        (HEAD, list(lines(found))),
        (AGAINST, list(against_teacher(found))),
        (("in the second set of scenes", *HEAD[1:]), list(lines(second))),
        (("student, in the second set", *AGAINST[1:]), list(against_teacher(second))),
    ]
    return "\n\n".join(text_table(head, body, markdown=True) for head, body in parts if body) + "\n"


_STYLES = ("o-", "s--", "^:")
"""Of all streams together, and of each that was cooled alone."""


def draw(found: Found, path: Path) -> Path:
    """Success over temperature, a panel a group of tasks and a colour a model, with Wilson's intervals; other lines
    where one stream alone is cooler."""
    streams = sorted({warm.stream for told in found.values() for warm in told})
    styles = dict(zip(streams, _STYLES, strict=False))
    colours = _colours(found)
    with new_figure(8.2, 4.4) as figure:
        panels = figure.subplots(1, len(SHOWN), sharey=True)
        for axes, group in zip(panels, SHOWN, strict=True):
            for colour, told in zip(colours, found.values(), strict=True):
                least = _least_driven(told)
                shares = {warm: row.beside(least).share(multimodal=GROUPS[group]) for warm, row in told.items()}
                for stream, style in styles.items():
                    own = {warm.value: share for warm, share in shares.items() if warm == UNIT or warm.stream == stream}
                    if len(own) > 1:
                        _draw_line(axes, own, colour, style)
            axes.set(xlim=(-0.08, 1.05), xlabel="temperature of the noise", xticks=(0, 0.25, 0.5, 0.75, 1))
            axes.set_title(f"{group} tasks")
            axes.axvline(1, color=INK, lw=0.9, ls=(0, (2, 2)), zorder=0)
            tidy(axes)
        panels[0].set_ylabel("success")
        told = [Line2D([], [], color=c, lw=1.6, label=name) for c, name in zip(colours, found, strict=True)]
        told += [_line(stream, style) for stream, style in styles.items() if len(styles) > 1]
        figure.legend(handles=told, loc="outside lower center", ncols=3, frameon=False)
        return save_figure(figure, path)


def _colours(found: Found) -> list[str]:
    """A colour for each model: students' own, and for the teacher greys, darker the more steps."""
    teachers = [name for name, told in found.items() if told[UNIT].kind == "teacher"]
    shades = run_colours((), [name for name in found if name not in teachers])
    greys = dict(zip(teachers, cycle(GREYS), strict=False))
    return [greys.get(name) or shades[name] for name in found]


def _line(stream: str, style: str) -> Line2D:
    name = f"{stream} alone" if stream else "all streams"
    return Line2D([], [], color=INK, marker=style[0], ls=style[1:], ms=5, lw=1.6, label=name)


def _draw_line(axes: object, shares: dict[float, Share], colour: str, style: str) -> None:
    warm = list(shares)
    low, high = zip(*(share.interval for share in shares.values()), strict=True)
    axes.plot(warm, [share.rate for share in shares.values()], style, color=colour, ms=5, lw=1.6)
    axes.vlines(warm, low, high, color=colour, lw=1.4, alpha=0.4)


def write_temperatures(runs: Sequence[Path], out: Path) -> None:
    """Writes `noise.md` and `noise.png` beside a comparison, where anybody was driven at several."""
    rows = pool_evaluations([one for run in (*runs, *cooler_runs(runs)) for one in read_evaluations(run)])
    if found := by_temperature(rows):
        write_whole(out / "noise.md", tables(found))
        draw(found, out / "noise.png")
