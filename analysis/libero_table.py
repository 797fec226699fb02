# SPDX-License-Identifier: Apache-2.0
"""Success and task time of models on scenes of LIBERO, suite by suite."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from temperatures import cooler_runs

from flashwam.report.compare import gather
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.table import text_table
from flashwam.run.evaluation import Evaluation
from flashwam.run.task_numbers import TaskNumbers
from flashwam.sim.simulators import get_task
from flashwam.system.files import write_whole

GROUPS = ("libero_object", "libero_spatial", "libero_two_bowls")
"""Beginnings of the tasks' names -> a column each."""
HEAD = ("model", *GROUPS, "front/side", "done in, s", "done in, s, two bowls")


def task_time(tasks: Iterable[tuple[str, TaskNumbers]]) -> float | None:
    """Seconds until a successful episode was done, mean; None where none succeeded.

    Every episode that fails lasts to the limit of its task, so what all of them lasted tells what the others did.

    Args:
        tasks: Name and numbers, of any number of evaluations.
    """
    seconds, successes = 0.0, 0
    for name, numbers in tasks:
        task = get_task(name)
        failed = (numbers.episodes - numbers.success) * task.max_steps
        seconds += ((numbers.steps or 0.0) * numbers.episodes - failed) / task.control_hz
        successes += numbers.success
    return seconds / successes if successes else None


def cells(evaluations: Sequence[Evaluation]) -> list[str]:
    """The row of one model at one number of steps, after its name."""
    tasks = [named for one in evaluations for named in one.tasks.items()]
    groups = [[(name, numbers) for name, numbers in tasks if name.startswith(group)] for group in GROUPS]
    counted = [f"{sum(n.success for _, n in group)}/{sum(n.episodes for _, n in group)}" for group in groups]
    *one_way, two_way = groups
    ways = "/".join(str(sum(numbers.ways.get(way, 0) for _, numbers in two_way)) for way in ("0", "1"))
    times = [task_time([named for group in one_way for named in group]), task_time(two_way)]
    return [*counted, ways, *("-" if time is None else f"{time:.1f}" for time in times)]


def libero_table(runs: Sequence[Path | str], out: Path) -> str:
    """The table, for a README: rows in the order of the comparison of the same runs in `out`, then those from cooler
    noise."""
    rows, _, _ = gather(runs, out)
    order = [row.label for row in rows]
    found: dict[str, list[Evaluation]] = {}
    for one in (one for run in (*runs, *cooler_runs(runs)) for one in read_evaluations(run)):
        (row,) = pool_evaluations([one])
        found.setdefault(row.label, []).append(one)
    cooled = [label for label in found if label not in order]
    body = [[label, *cells(found[label])] for label in [*order, *cooled] if label in found]
    return text_table(HEAD, body, markdown=True)


def write_libero_table(runs: Sequence[Path | str], out: Path) -> None:
    """Writes `libero.md` beside a comparison."""
    write_whole(out / "libero.md", libero_table(runs, out) + "\n")
