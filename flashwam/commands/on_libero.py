# SPDX-License-Identifier: Apache-2.0
"""The part of `flashwam evaluate` that drives LIBERO: its options, and when it is meant."""

import argparse
from typing import Any

from flashwam.commands.shared import TIMING, given, path, positive, read_token, trust
from flashwam.system.paths import keep_compiled

__all__ = ["add_libero_options", "is_for_libero", "libero_results"]

_CONVENTION = ("convention", "idle_steps", "max_steps", "shading", "instruction")
_OPTIONS = ("suite", *_CONVENTION, "processes", "base", "rollout")
_LOADING = ("nfe", "temperature", "precision", "preset", "device", "dtype", "base", "rollout")
_OTHERS = (
    *("random", "expert", "auxiliary", "plain_euler", "unit_amplitude"),
    *("real_time", *TIMING),
    *("recordings", "data", "recipe", "teacher", "windows", "draws"),
)


def add_libero_options(parser: argparse.ArgumentParser) -> None:
    """Adds --sim and what says how LIBERO is driven."""
    group = parser.add_argument_group("on LIBERO (docs/simulators.md)")
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
    base_help = "folder with vae/ and text_encoder/, for a MODEL that comes without"
    group.add_argument("--base", type=path, metavar="DIR", help=base_help)
    rollout_help = "how MODEL's chunks are computed, see flashwam serve: graphed, on a GPU (default: the model's own)"
    group.add_argument("--rollout", metavar="NAME", help=rollout_help)
    words_help = "words of a task's file, or of that file's name (default: file)"
    group.add_argument("--instruction", choices=("file", "name"), help=words_help)


def is_for_libero(arguments: argparse.Namespace) -> bool:
    """Tells whether LIBERO is asked for, with all that it takes and nothing else."""
    given = [name for name in _OPTIONS if getattr(arguments, name) is not None]
    if arguments.sim != "libero":
        if given:
            arguments.parser.error(f"{_option(given[0])} is for LIBERO: add --sim libero")
        return False
    _check(arguments)
    return True


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what makes no sense on LIBERO."""
    error = arguments.parser.error
    others = given(arguments, _OTHERS)
    if others:
        error(f"--sim libero drives a model as it is served: leave out {_option(others[0])}")
    if (arguments.checkpoint is None) == (arguments.server is None):
        error("--sim libero drives a model: give either MODEL or --server URL (flashwam serve starts one)")
    chosen = given(arguments, _LOADING)
    if arguments.server is not None and chosen:
        error(f"--sim libero drives a served model as its server draws it: leave out {_option(chosen[0])}")
    if arguments.suite is None:
        error("--sim libero needs --suite, such as libero_10")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def libero_results(arguments: argparse.Namespace) -> Any:
    """Drives LIBERO, as the arguments say."""
    from flashwam.sim.libero import get_convention

    changes = {name: getattr(arguments, name) for name in _CONVENTION[1:]}
    common: dict[str, Any] = {name: getattr(arguments, name) for name in ("suite", "tasks", "episodes", "seed", "out")}
    common["convention"] = get_convention(arguments.convention or "lingbot_va").changed(**changes)
    common["processes"] = arguments.processes or 1
    if arguments.server is not None:
        from flashwam.evaluation.libero import evaluate_on_libero

        return evaluate_on_libero(arguments.server, token=read_token(arguments), **common)
    keep_compiled()
    import torch

    from flashwam.evaluation.libero_model import evaluate_model_on_libero

    loading = {name: getattr(arguments, name) for name in _LOADING} | trust(arguments)
    loading["device"] = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return evaluate_model_on_libero(arguments.checkpoint, **loading, **common)
