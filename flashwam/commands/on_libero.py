# SPDX-License-Identifier: Apache-2.0
"""The part of `flashwam evaluate` that drives LIBERO: its options, and when it is meant."""

import argparse
from typing import Any

from flashwam.commands.shared import is_given, positive, read_token

__all__ = ["add_libero_options", "is_for_libero", "libero_results"]

_OPTIONS = ("suite", "convention", "idle_steps", "max_steps", "shading", "instruction", "processes")
_OTHERS = (
    *("checkpoint", "random", "auxiliary", "real_time", "nfe", "plain_euler", "unit_amplitude"),
    *("temperature", "precision"),
    *("recordings", "data", "recipe", "teacher", "windows", "draws", "preset", "device", "dtype"),
)


def add_libero_options(parser: argparse.ArgumentParser) -> None:
    """Adds --sim and what says how LIBERO is driven."""
    group = parser.add_argument_group("on LIBERO, for --server (docs/simulators.md)")
    sim_help = "of the tasks (default: metaworld); flashwam info says how libero is installed"
    group.add_argument("--sim", choices=("metaworld", "libero"), default="metaworld", help=sim_help)
    suite_help = "libero_spatial, libero_object, libero_goal, libero_10, libero_90 or one of LIBERO-PRO; --tasks are "
    group.add_argument("--suite", metavar="NAME", help=f"{suite_help}numbers or names in it, --episodes up to 50")
    told = "idle steps, limits and sizes: those of LingBot-VA's client, or the common ones (default: lingbot_va)"
    group.add_argument("--convention", choices=("lingbot_va", "common"), help=told)
    idle_help = "controls in which objects come to rest before the first picture (default: the convention's)"
    group.add_argument("--idle-steps", type=positive, metavar="N", help=idle_help)
    steps_help = "control steps after which an episode has failed (default: the convention's)"
    group.add_argument("--max-steps", type=positive, metavar="N", help=steps_help)
    shading_help = "of the pictures; plain is faster without a GPU, and not what models were trained on (default: full)"
    group.add_argument("--shading", choices=("full", "plain"), help=shading_help)
    process_help = "episodes that are driven at once, by a process and a session each (default: 1)"
    group.add_argument("--processes", type=positive, metavar="N", help=process_help)
    words_help = "words of a task's file, or of that file's name (default: file)"
    group.add_argument("--instruction", choices=("file", "name"), help=words_help)


def is_for_libero(arguments: argparse.Namespace) -> bool:
    """Tells whether LIBERO is asked for, with all that it takes and nothing else."""
    given = [name for name in _OPTIONS if getattr(arguments, name) is not None]
    if arguments.sim != "libero":
        if given:
            arguments.parser.error(f"--{given[0].replace('_', '-')} is for LIBERO: add --sim libero")
        return False
    others = [name for name in _OTHERS if is_given(getattr(arguments, name))]
    if others:
        what = "MODEL" if others[0] == "checkpoint" else f"--{others[0].replace('_', '-')}"
        own = ", or --sim: the tasks of a model that was trained on LIBERO here say it" if what == "MODEL" else ""
        arguments.parser.error(f"--sim libero drives a served model as its server draws it: leave out {what}{own}")
    if arguments.server is None:
        arguments.parser.error("--sim libero drives a served model: give --server URL (flashwam serve starts one)")
    if arguments.suite is None:
        arguments.parser.error("--sim libero needs --suite, such as libero_10")
    return True


def libero_results(arguments: argparse.Namespace) -> Any:
    """Drives LIBERO, as the arguments say."""
    from flashwam.evaluation.libero import evaluate_on_libero
    from flashwam.sim.libero import get_convention

    changes = {name: getattr(arguments, name) for name in ("idle_steps", "max_steps", "shading", "instruction")}
    return evaluate_on_libero(
        arguments.server,
        suite=arguments.suite,
        token=read_token(arguments),
        tasks=arguments.tasks,
        episodes=arguments.episodes,
        seed=arguments.seed,
        out=arguments.out,
        convention=get_convention(arguments.convention or "lingbot_va").changed(**changes),
        processes=arguments.processes or 1,
    )
