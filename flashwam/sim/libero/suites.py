# SPDX-License-Identifier: Apache-2.0
"""Suites of LIBERO and LIBERO-PRO: their names, their tasks in the benchmark's order, and how long an episode lasts."""

from flashwam.sim.libero.packages import benchmark_folder, install_command
from flashwam.sim.libero.tasks import LiberoTask
from flashwam.system.errors import InputError, MissingPackageError, nearest_hint

__all__ = ["STANDARD_SUITES", "horizon_of", "suite_names", "suite_tasks"]

STANDARD_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
"""LIBERO's own; those of LIBERO-PRO are named after the one that they change, such as "libero_10_task"."""

_HORIZONS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
_LONGEST = 520


def horizon_of(suite: str) -> int:
    """Control steps after which an episode has failed, in the usual convention.

    220, 280, 300 and 520 for spatial, object, goal and 10, and for what LIBERO-PRO made of these; 400 for 90, whose
    longest demonstrations have somewhat fewer; 520 for every other suite.
    """
    for name, steps in _HORIZONS.items():
        if suite == name or suite.startswith(f"{name}_"):
            return steps
    return _LONGEST


def suite_names() -> tuple[str, ...]:
    """Suites whose tasks have all their files here: LIBERO's own first, then those of LIBERO-PRO by name.

    Raises:
        ImportError: LIBERO is not installed.
    """
    whole = [name for name in _task_map() if _is_whole(name)]
    return (*(name for name in STANDARD_SUITES if name in whole), *sorted(set(whole) - set(STANDARD_SUITES)))


def suite_tasks(suite: str) -> tuple[LiberoTask, ...]:
    """Tasks of a suite, in the benchmark's order.

    Raises:
        ImportError: LIBERO is not installed.
        ValueError: There is no such suite here; the message names the nearest one.
    """
    if suite not in _task_map() or not _is_whole(suite):
        names = suite_names()
        hint = nearest_hint(suite, names)
        known = "is listed without its files here" if suite in _task_map() else "is unknown"
        raise InputError(f"suite {suite!r} {known}{hint} Known suites: {', '.join(names)}")
    return _tasks(suite)


def _tasks(suite: str) -> tuple[LiberoTask, ...]:
    folder = benchmark_folder()
    return tuple(
        LiberoTask(
            suite=suite,
            index=index,
            name=name,
            bddl_file=folder / "bddl_files" / suite / f"{name}.bddl",
            states_file=folder / "init_files" / suite / f"{name}.pruned_init.npz",
        )
        for index, name in enumerate(_task_map()[suite])
    )


def _is_whole(suite: str) -> bool:
    tasks = _tasks(suite)
    return bool(tasks) and all(task.bddl_file.is_file() and task.states_file.is_file() for task in tasks)


def _task_map() -> dict[str, list[str]]:
    """Suite -> names of its tasks."""
    try:
        from libero.libero.benchmark.libero_suite_task_map import libero_task_map
    except ImportError as error:
        raise MissingPackageError(f"LIBERO is not installed here ({error}): {install_command()}") from error
    return dict(libero_task_map)
