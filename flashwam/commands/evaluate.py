# SPDX-License-Identifier: Apache-2.0
"""`flashwam evaluate`: success in closed loop."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashwam.commands.on_libero import add_libero_options, is_for_libero, libero_results
from flashwam.commands.on_recordings import add_recording_options, is_for_recordings, recording_results
from flashwam.commands.shared import (
    TIMING,
    Command,
    add_json,
    add_precision,
    add_temperature,
    add_token,
    add_trust,
    given,
    names,
    path,
    positive,
    read_token,
    trust,
    write_json,
)
from flashwam.system.errors import InputError

WORDS = """\
success in closed loop, or errors on recorded episodes, with latency
Drives a teacher or student in the simulator from seeds that no demonstration used. Success comes with its Wilson 95 %
interval. "1v/2a" means one video step and two action steps per chunk; "full" the teacher's own. With --real-time the
world goes on while a chunk is computed, for a latency that is measured here, or given so that another machine's figure
can be tried; then the time that a task takes is told too. A model of one's own recordings has no simulator: it is
judged on recorded episodes, against its teacher's draws from the same noise and against what was recorded."""
_SAMPLING = ("nfe", "plain_euler", "unit_amplitude", "temperature", "precision", "auxiliary")
EXAMPLES = (
    "  flashwam evaluate runs/flash_wam/student --episodes 50 --nfe 1v/1a --nfe 1v/2a\n"
    "  flashwam evaluate runs/teacher/teacher --nfe full --tasks reach-wall,faucet-turn\n"
    "  flashwam evaluate runs/naive_lcm/student --plain-euler          what the wrong sampler costs\n"
    "  flashwam evaluate runs/naive_lcm/student --unit-amplitude       the same, with no loss of amplitude\n"
    "  flashwam evaluate runs/flash_wam/student --temperature 0.5       from half the noise\n"
    "  flashwam evaluate runs/flash_wam/student --precision fp8         its linear layers in 8-bit numbers\n"
    "  flashwam evaluate runs/teacher --random                         random actions on this model's tasks\n"
    "  flashwam evaluate runs/teacher --expert                         who demonstrated them, in the same scenes\n"
    "  flashwam evaluate runs/swift_full --auxiliary --nfe full        with what its training was shown beside\n"
    "  flashwam evaluate runs/flash_wam --real-time --latency-ms 20 --latency-ms 348    the world does not wait\n"
    "  flashwam evaluate runs/flash_wam --real-time --meanwhile go_on     the robot goes on while a chunk is computed\n"
    "  flashwam evaluate runs/libero_pairs --device cuda                 on the episodes that were held out\n"
    "  flashwam evaluate runs/libero_pairs --data data/mine              on other recordings\n"
    "  flashwam evaluate runs/libero_pairs --data data/mine --tasks monday     on one of their data sets\n"
    "  flashwam evaluate runs/libero_pairs --sim libero --suite libero_10    in LIBERO, as its server would drive it\n"
    "  flashwam evaluate --server ws://127.0.0.1:29536 --episodes 50   a model that flashwam serve runs\n"
    "  flashwam evaluate --server ws://127.0.0.1:29536 --data raw/mine   the same, on raw recordings\n"
    "  flashwam evaluate --server ws://127.0.0.1:29536 --sim libero --suite libero_10   the same, served"
)


def _options(parser: argparse.ArgumentParser) -> None:
    model_help = "folder of a teacher or student, or a run"
    parser.add_argument("checkpoint", metavar="MODEL", type=path, nargs="?", help=model_help)
    parser.add_argument("--server", metavar="URL", help="drive a served model instead; its server fixes the steps")
    add_token(parser, ", for --server")
    parser.add_argument("--episodes", type=positive, metavar="N", help="episodes per task (default: the recipe's)")
    nfe_help = "steps per chunk; may be given several times (default: the recipe's)"
    parser.add_argument("--nfe", action="append", metavar="1v/1a", help=nfe_help)
    tasks_help = "tasks, or data sets of recordings (default: the recipe's)"
    parser.add_argument("--tasks", type=names, metavar="A,B", help=tasks_help)
    parser.add_argument("--plain-euler", action="store_true", help="ignore the student's consistency functions")
    unit_help = "bring the student's consistency functions to the data's amplitude"
    parser.add_argument("--unit-amplitude", action="store_true", help=unit_help)
    add_temperature(parser)
    add_precision(parser)
    baselines = parser.add_mutually_exclusive_group()
    random_help = "random actions; MODEL only says tasks and episodes"
    baselines.add_argument("--random", action="store_true", help=random_help)
    expert_help = "the scripted expert of the demonstrations, undisturbed; MODEL only says tasks and episodes"
    baselines.add_argument("--expert", action="store_true", help=expert_help)
    parser.add_argument("--auxiliary", action="store_true", help="show the policy its training modality too")
    _real_time_options(parser)
    add_libero_options(parser)
    add_recording_options(parser)
    shifts = "shifts the evaluation seeds (default: the recipe's evaluate.seed, or 0)"
    parser.add_argument("--seed", type=int, help=shifts)
    parser.add_argument("--out", type=path, metavar="DIR", help="folder of the results (default: the run's)")
    add_trust(parser)
    add_json(parser)


def _real_time_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a world that does not wait")
    group.add_argument("--real-time", action="store_true", help="time goes on while a chunk is computed")
    latency_help = "from a picture to its chunk; may be given several times (default: measured here)"
    group.add_argument("--latency-ms", type=float, action="append", metavar="MS", help=latency_help)
    group.add_argument("--latency-scale", type=float, metavar="X", help="so many times what is measured here")
    meanwhile_help = "what the robot does meanwhile: stay, or execute the rest of its last chunk (default: hold)"
    group.add_argument("--meanwhile", choices=("hold", "go_on"), help=meanwhile_help)
    rate_help = "controls that the robot executes in a second (default: 80, MetaWorld's)"
    group.add_argument("--control-hz", type=float, metavar="HZ", help=rate_help)
    patience_help = "an episode may last so many times its task's limit, waiting included (default: 1)"
    group.add_argument("--patience", type=float, metavar="X", help=patience_help)


def _action(arguments: argparse.Namespace) -> None:
    if arguments.token_file is not None and arguments.server is None:
        arguments.parser.error("--token-file is for --server, and a model in a folder needs none: leave it out")
    elsewhere = is_for_libero(arguments) or is_for_recordings(arguments) or arguments.server is not None
    if arguments.seed is None and (elsewhere or _baseline(arguments) or arguments.auxiliary):
        # Of all but a model that is driven here no recipe is asked.
        arguments.seed = 0
    if is_for_libero(arguments):
        results = libero_results(arguments)
    else:
        results = _on_recordings(arguments) if is_for_recordings(arguments) else _measured(arguments)
    if write_json(arguments, results):
        from flashwam.commands.evaluation_lines import evaluation_lines

        print("\n".join(evaluation_lines(results)))


def _baseline(arguments: argparse.Namespace) -> str | None:
    """Names the baseline that is driven; None for a model."""
    return next((name for name in ("random", "expert") if getattr(arguments, name)), None)


def _of_no_model(baseline: str, arguments: argparse.Namespace) -> Any:
    from flashwam.evaluation.baselines import evaluate_baseline

    return evaluate_baseline(
        baseline,
        arguments.checkpoint,
        episodes=arguments.episodes,
        tasks=arguments.tasks,
        seed=arguments.seed,
        out=arguments.out,
        trust=arguments.trust,
    )


def _measured(arguments: argparse.Namespace) -> Any:
    timing = given(arguments, TIMING)
    if timing and not arguments.real_time:
        arguments.parser.error(f"--{timing[0].replace('_', '-')} is for a world that does not wait: add --real-time")
    baseline = _baseline(arguments)
    if arguments.real_time and (baseline or arguments.auxiliary):
        arguments.parser.error(f"--real-time drives a model as it is deployed: leave out --{baseline or 'auxiliary'}")
    sampling = given(arguments, _SAMPLING)
    if baseline:
        if arguments.server is not None or sampling:
            arguments.parser.error(
                f"--{baseline} drives no model: leave out --server and all that says how one is sampled"
            )
        return _of_no_model(baseline, arguments)
    if (arguments.checkpoint is None) == (arguments.server is None):
        arguments.parser.error("give either MODEL or --server URL")
    common = {"episodes": arguments.episodes, "tasks": arguments.tasks, "seed": arguments.seed, "out": arguments.out}
    if arguments.server is not None:
        if sampling:
            arguments.parser.error(
                "--nfe, --plain-euler, --unit-amplitude, --temperature, --precision and --auxiliary are the server's "
                "to choose: see flashwam serve --help"
            )
        from flashwam.evaluation.served import evaluate_served

        token, clocks = read_token(arguments), _clocks(arguments) if arguments.real_time else [None]
        return [
            one
            for clock in clocks
            for one in evaluate_served(arguments.server, token=token, **common, **({"clock": clock} if clock else {}))
        ]
    common |= trust(arguments)
    if arguments.auxiliary:
        if arguments.plain_euler or arguments.unit_amplitude:
            arguments.parser.error(
                "--plain-euler and --unit-amplitude are for students; --auxiliary drives what was trained, unstripped"
            )
        for option in ("precision", "temperature"):
            if getattr(arguments, option) is not None:
                arguments.parser.error(f"--auxiliary drives what was trained, as it is: leave --{option} out")
        drive = _auxiliary_evaluation(arguments.checkpoint, trusted=arguments.trust)
        return drive(arguments.checkpoint, nfe=tuple(arguments.nfe or ("full",)), **common)
    from flashwam.evaluation.local import evaluate

    nfe = _nfe(arguments)
    if arguments.precision is not None:
        common["precision"] = arguments.precision
    if arguments.real_time:
        return _in_real_time(arguments, nfe=nfe, **common)
    if arguments.temperature is not None:
        common["temperature"] = arguments.temperature
    if arguments.unit_amplitude:
        common["unit_amplitude"] = True
    return evaluate(arguments.checkpoint, nfe=nfe, plain_euler=arguments.plain_euler, **common)


def _on_recordings(arguments: argparse.Namespace) -> Any:
    options = ("seed", "out", "plain_euler", "unit_amplitude", "temperature", "precision")
    common = {name: getattr(arguments, name) for name in options}
    return recording_results(arguments, nfe=_nfe(arguments), **common, **trust(arguments))


def _nfe(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    return tuple(arguments.nfe) if arguments.nfe else None


def _in_real_time(arguments: argparse.Namespace, **common: Any) -> Any:
    if arguments.plain_euler and arguments.unit_amplitude:
        arguments.parser.error("give either --plain-euler or --unit-amplitude")
    from flashwam.core.sampler_name import sampler_name
    from flashwam.evaluation.real_time import evaluate_real_time

    options = {name: getattr(arguments, name) for name in ("plain_euler", "unit_amplitude", "temperature")}
    sampler = sampler_name(**options)
    return evaluate_real_time(arguments.checkpoint, clocks=_clocks(arguments), sampler=sampler, **common)


def _clocks(arguments: argparse.Namespace) -> list[Any]:
    """A clock for every latency that is asked for, or the one that is measured."""
    from flashwam.run.real_time import RealTime

    told = {name: getattr(arguments, name) for name in ("control_hz", "patience", "meanwhile")}
    told["scale"] = arguments.latency_scale
    given = {name: value for name, value in told.items() if value is not None}
    return [RealTime(latency_ms=ms, **given) for ms in arguments.latency_ms or [None]]


def _auxiliary_evaluation(checkpoint: Path, *, trusted: bool) -> Callable[..., Any]:
    """Finds how a model is driven with the modality of its training: the method that made it names that."""
    from flashwam.distillation.methods import find_method
    from flashwam.run.folder import INFO_FILE
    from flashwam.run.model_info import ModelInfo, model_folder
    from flashwam.system.imports import find_function, reading, trusting

    folder = model_folder(checkpoint)
    with trusting(trusted):
        info = ModelInfo.read(folder)
        recipe = info.recipe
        section = None if recipe is None else recipe.distill if info.role == "student" else recipe.train
        if section is None:
            raise InputError(
                f"{folder / INFO_FILE} does not say by which method the model was trained: evaluate it as it is"
            )
        name = section.method
        with reading(folder / INFO_FILE):
            method = find_method(name)
    if method.auxiliary_evaluation is None:
        raise InputError(f"{folder} was trained by {name}, without an auxiliary modality: evaluate it as it is")
    return find_function(method.auxiliary_evaluation, what="evaluation")


COMMAND = Command(name="evaluate", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
