# SPDX-License-Identifier: Apache-2.0
"""The part of `flashwam evaluate` that judges a model on recorded episodes: its options, and when it is meant."""

import argparse
from collections.abc import Sequence
from typing import Any

from flashwam.commands.shared import RECIPE_HELP, TIMING, given, is_given, path, positive, read_token
from flashwam.system.paths import keep_compiled

__all__ = ["add_recording_options", "is_for_recordings", "recording_results"]

_OPTIONS = ("data", "recipe", "teacher", "windows", "draws", "preset", "device", "dtype")
_PLACED = ("preset", "device", "dtype")
_DRIVING = ("episodes", "random", "expert", "auxiliary", "real_time")
_SERVED = ("data", "tasks", "recipe", "teacher", "windows", "draws")


def add_recording_options(parser: argparse.ArgumentParser) -> None:
    """Adds --recordings and what says on which and how."""
    group = parser.add_argument_group("on recorded episodes, with no simulator")
    told = "draw there instead of driving (taken by itself for a model whose tasks are not the simulator's)"
    group.add_argument("--recordings", action="store_true", help=told)
    data_help = (
        "folder of recordings, converted ones; raw ones for --server (default: the episodes held out of those that "
        "MODEL was made from)"
    )
    group.add_argument("--data", type=path, metavar="FOLDER", help=data_help)
    recipe_help = f"its data section says how they are laid out: {RECIPE_HELP} (default: MODEL's own)"
    group.add_argument("--recipe", metavar="RECIPE", help=recipe_help)
    teacher_help = "folder of the model that MODEL was distilled from (default: where it was); for --server, a URL"
    group.add_argument("--teacher", metavar="FOLDER", help=teacher_help)
    group.add_argument("--windows", type=positive, metavar="N", help="samples of the recipe's length (default: 32)")
    draws_help = "of every window; 8 or more tell whether they take several ways (default: 8)"
    group.add_argument("--draws", type=positive, metavar="N", help=draws_help)
    preset_help = "settings for another tool's checkpoint that does not say how it is sampled (--sim libero: libero)"
    group.add_argument("--preset", metavar="NAME", help=preset_help)
    group.add_argument("--device", help="such as cuda:1 or cpu (default: cuda where there is one, or else cpu)")
    dtype_help = "of the models (default: that of their files); like --preset and --device, for --sim libero too"
    group.add_argument("--dtype", choices=("bfloat16", "float32"), help=dtype_help)


def is_for_recordings(arguments: argparse.Namespace) -> bool:
    """Tells whether recordings are asked for, or nothing else can be: the model's tasks are not the simulator's."""
    driving = [name for name in _DRIVING if getattr(arguments, name)]
    asked = [name for name in ("recordings", *_OPTIONS) if getattr(arguments, name)]
    if asked:
        if driving:
            arguments.parser.error(
                f"--{asked[0]} is for recorded episodes, on which nothing is driven: leave out "
                f"--{driving[0].replace('_', '-')}"
            )
        _refuse_time(arguments)
        if (arguments.checkpoint is None) == (arguments.server is None):
            arguments.parser.error("give either MODEL or --server URL, which is to be judged on recorded episodes")
        if set(asked) <= set(_PLACED) and arguments.server is None and _simulated(arguments):
            arguments.parser.error(
                f"--{asked[0]} is for recorded episodes; in the simulator a model runs on the CPU, in the numbers of "
                f"its files: leave --{asked[0]} out to drive it, or add --recordings"
            )
        return True
    if driving or arguments.server is not None or arguments.checkpoint is None:
        return False
    if _simulated(arguments) is not False:
        return False
    _refuse_time(arguments)
    return True


def _refuse_time(arguments: argparse.Namespace) -> None:
    if timing := given(arguments, TIMING):
        arguments.parser.error(
            f"--{timing[0].replace('_', '-')} is for a world that does not wait, which takes a simulator: on recorded "
            "episodes nothing is driven, so leave it out"
        )


def _simulated(arguments: argparse.Namespace) -> bool | None:
    """Tells whether the model's tasks are the simulator's; None where nothing says what it was made from."""
    from flashwam.run.folder import INFO_FILE
    from flashwam.run.model_info import ModelInfo, model_folder
    from flashwam.sim.tasks import TASKS
    from flashwam.system.imports import trusting

    folder = model_folder(arguments.checkpoint)
    if not (folder / INFO_FILE).is_file():
        return None
    with trusting(arguments.trust):
        recipe = ModelInfo.read(folder).recipe
    return None if recipe is None else recipe.data.source != "lerobot" or bool(set(recipe.tasks) & set(TASKS))


def recording_results(arguments: argparse.Namespace, *, nfe: Sequence[str] | None, **common: Any) -> Any:
    """Judges on recordings, as the arguments say.

    Args:
        arguments: With those of `add_recording_options`.
        nfe: Steps; the recipe's if None.
        common: For `evaluate_recordings`.
    """
    from flashwam.recipe.load import load_recipe

    given = {name: told for name in ("tasks", *_OPTIONS) if (told := getattr(arguments, name)) is not None}
    if "recipe" in given:
        given["recipe"] = load_recipe(given["recipe"], trust=arguments.trust)
    if arguments.server is not None:
        return _served(arguments, given, common)
    keep_compiled()
    import torch

    from flashwam.evaluation.recordings import evaluate_recordings
    from flashwam.run.card import renew_card
    from flashwam.run.model_info import model_folder
    from flashwam.system.hub import is_on_hub

    given.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    results = evaluate_recordings(arguments.checkpoint, nfe=nfe, **given, **common)
    if arguments.out is None and not is_on_hub(arguments.checkpoint):
        # What is measured lies with the model then, whose card tells of it.
        renew_card(model_folder(arguments.checkpoint), trust=arguments.trust)
    return results


def _served(arguments: argparse.Namespace, given: dict[str, Any], common: dict[str, Any]) -> Any:
    """Judges what a server serves."""
    sampling = ("plain_euler", "unit_amplitude", "temperature", "precision")
    chosen = [name for name in sampling if is_given(common.get(name))]
    chosen += [name for name in given if name not in _SERVED] + (["nfe"] if arguments.nfe else [])
    if chosen:
        arguments.parser.error(
            f"--{chosen[0].replace('_', '-')} is the server's to choose: see flashwam serve --help; leave it out"
        )
    if "data" not in given:
        arguments.parser.error("--server has no recordings of its own: give --data FOLDER, of raw LeRobot data sets")
    from flashwam.evaluation.served_recordings import evaluate_served_recordings

    token, seed, out = read_token(arguments), common["seed"], common["out"]
    return evaluate_served_recordings(arguments.server, token=token, seed=seed, out=out, **given)
