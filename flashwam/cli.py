# SPDX-License-Identifier: Apache-2.0
"""The `flashwam` command. Parsing imports nothing heavy; each command imports what it runs."""

import argparse
import json
import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.system.errors import InputError, UserError

__all__ = ["main"]

USER_ERROR = 2
INTERRUPTED = 130

_STOPPED = "stopped; what is done is kept, and the same command resumes it"
_RECIPE_HELP = "a YAML file, a run folder, or a short name such as flash_wam (see recipes/)"
_TOKEN_HELP = "file with the token that clients send; FLASHWAM_TOKEN in the environment does the same"
_OVERRIDE_HELP = "values that replace the recipe's, such as distill.steps=500 streams.video.consistency=linear"

_TOP = """\
From demonstrations to a one-step world-action model, with the reasons shown.

A world-action model draws a chunk of video and then the actions that lead there, in dozens of network evaluations.
flashwam distils it to one per stream, with the consistency function that fits each stream's noise.
"""

_TOP_EPILOG = """\
in order:
  flashwam demo                        all of the below at small size, and one page that shows it
  flashwam analyze flash_wam           before any training: which consistency function fits which stream, and why
  flashwam collect teacher             demonstrations from a simulator
  flashwam convert RAW OUT --recipe R  or latents of a robot's own episodes
  flashwam train teacher               the many-step teacher
  flashwam distill flash_wam           the one-step student
  flashwam evaluate runs/flash_wam/student --nfe 1v/1a
  flashwam compare runs/flash_wam runs/naive_lcm
  flashwam serve runs/flash_wam/student

`flashwam COMMAND --help` explains a command. Every run stops cleanly on Ctrl-C and resumes with the same command;
a training first saves a checkpoint, on SIGTERM too. A second Ctrl-C ends at once.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 where `check` or `info` found something wrong, 2 for a user's
    error, 130 after Ctrl-C, 143 after a training that SIGTERM stopped."""
    # Set before torch is imported: two OpenMP teams on the same cores slow each other down many times over.
    for key, value in (("OMP_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
        os.environ.setdefault(key, value)
    arguments = _parse(sys.argv[1:] if argv is None else list(argv))
    level = logging.DEBUG if arguments.debug else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "PIL", "urllib3", "filelock", "absl", "numexpr", "OpenGL", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        status = arguments.run(arguments)
        # Only now would a full disk or a closed pipe show.
        sys.stdout.flush()
        return status or 0
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"\n{str(stop) or _STOPPED}", file=sys.stderr)
        # A training that stopped of itself says by which signal.
        return getattr(stop, "status", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # The user's own files: a full disk, a folder that may not be read.
    except (UserError, OSError) as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except Exception as error:
        error.add_note(_where_to_look(error))
        raise


def _where_to_look(error: Exception) -> str:
    """Names the last line that is flashwam's or a plug-in's, not that of a library which either called."""
    libraries = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib"))
    ours = str(Path(__file__).resolve().parent)
    frames = traceback.extract_tb(error.__traceback__)
    places = [(str(Path(frame.filename).resolve()), frame) for frame in frames if Path(frame.filename).is_file()]
    file, frame = next(
        place for place in reversed(places) if place[0].startswith(ours) or not place[0].startswith(libraries)
    )
    return f"This is a mistake in code, not in what was given: look at {file}, line {frame.lineno}, in {frame.name}."


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="flashwam", description=_TOP, epilog=_TOP_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"flashwam {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _demo,
        _collect,
        _convert,
        _check,
        _import,
        _plan,
        _train,
        _distill,
        _evaluate,
        _serve,
        _analyze,
        _compare,
        _info,
    ):
        add(commands)
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives up on positionals after the first option; overrides may stand anywhere.
    late = [text for text in rest if "=" in text and not text.startswith("-")]
    if late != rest or (rest and not hasattr(arguments, "overrides")):
        unknown = [text for text in rest if text not in late or not hasattr(arguments, "overrides")]
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if late:
        arguments.overrides = [*arguments.overrides, *late]
    return arguments


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flashwam")
    except PackageNotFoundError:
        return "(not installed)"


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str, examples: str
) -> Any:
    title, _, body = text.partition("\n")
    parser = commands.add_parser(
        name,
        help=title,
        description=f"{title}\n{body}",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and debugging messages")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_recipe(parser: argparse.ArgumentParser, *, run_dir: bool = True) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=_RECIPE_HELP)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=_OVERRIDE_HELP)
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and a plan, and do nothing")
    _add_trust(parser)
    if run_dir:
        parser.add_argument("--run-dir", type=_path, metavar="DIR", help="folder of the run (default: runs/<name>)")
        parser.add_argument(
            "--accept-changed-inputs",
            action="store_true",
            help="go on with a run although its data, teacher or autoencoder are not those that it began with",
        )


def _accept(arguments: argparse.Namespace) -> dict[str, bool]:
    return {"accept_changed_inputs": arguments.accept_changed_inputs}


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import the classes that saved models and run folders name beside flashwam's own, and run their code; "
        "for files of your own or of somebody you trust",
    )


def _trust(arguments: argparse.Namespace) -> dict[str, bool]:
    """What `--trust` adds to a call."""
    return {"trust": True} if arguments.trust else {}


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        type=_json_target,
        metavar="FILE",
        help="write the numbers as JSON; '-' prints them instead of the text",
    )


def _demo(commands: Any) -> None:
    text = """\
everything once at small size, on one page
Collects demonstrations from a physics simulator, trains a small teacher, distils it to one step by several methods,
drives all of them in closed loop and writes one page with the schedule analysis, success, speed and the reasons.
The page exists within seconds and fills as results come. An interrupted demo resumes.

presets:
  smoke   3 minutes; checks that everything works, its numbers mean little
  quick   15 minutes on two cores
  pilot   an hour; every method once, at one learning rate
  full    hours; three seeds, learning rates searched for every method"""
    parser = _command(
        commands, "demo", _run_demo, text, "  flashwam demo\n  flashwam demo --preset smoke --out /tmp/demo"
    )
    parser.add_argument(
        "--preset", choices=("smoke", "quick", "pilot", "full"), default="quick", help="size (default: quick)"
    )
    parser.add_argument("--out", type=_path, default="runs/demo", metavar="DIR", help="default: runs/demo")
    parser.add_argument("--from-scratch", action="store_true", help="train the teacher even where one is shipped")
    parser.add_argument(
        "--family",
        metavar="NAME",
        help="model family of the miniature; an unknown name lists them",
    )


def _collect(commands: Any) -> None:
    text = """\
demonstrations from a simulator, by scripted experts
Writes LeRobot v2.1 folders below data.root: one per task, with videos, actions, latents and text embeddings.
Tasks with several ways to succeed get data.multimodal_episodes, and a coin chooses the way."""
    examples = "  flashwam collect teacher\n  flashwam collect teacher 'data.tasks=[reach-wall]' data.processes=4"
    _add_recipe(_command(commands, "collect", _run_collect, text, examples), run_dir=False)


def _plan(commands: Any) -> None:
    text = """\
memory, fit and time of a training on given GPUs
Builds the recipe's model without memory and says, for DDP, ZeRO-2, ZeRO-3, FSDP and LoRA: what weights, gradients,
optimiser, target, teacher and activations take on one GPU, what fits and by how much, how long all steps take."""
    examples = (
        "  flashwam plan libero/flash_wam --gpus 4 --memory 80\n"
        "  flashwam plan robotwin/flash_wam --gpus 8 --memory 141 distill.batch_size=8 --json -\n"
        "  flashwam plan libero/flash_wam --stage train --memory 24 --rank 64"
    )
    parser = _command(commands, "plan", _run_plan, text, examples)
    parser.add_argument("recipe", metavar="RECIPE", help=_RECIPE_HELP)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=_OVERRIDE_HELP)
    parser.add_argument("--gpus", type=_positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--memory", type=_gib, metavar="GIB", help="of one GPU; without it nothing is said to fit")
    parser.add_argument("--stage", choices=("train", "distill"), help="default: distill, where the recipe has it")
    parser.add_argument("--rank", type=_positive, metavar="R", help="of LoRA adapters (default: the recipe's, or 32)")
    _add_trust(parser)
    _add_json(parser)


def _convert(commands: Any) -> None:
    text = """\
latents from raw LeRobot episodes, versions 2 and 3
Encodes the pictures of every data set below RAW as the recipe's `data` section says (cameras, layout, camera_size,
stride), with the autoencoder and text encoder of wam.pretrained, and writes what `data.source: lerobot` reads
below OUT, with the actions' quantiles. data.processes episodes are encoded at a time. A file that is there is never
made again, so the same command goes on after an interruption."""
    examples = (
        "  flashwam convert raw/towels data/towels --recipe robotwin/flash_wam wam.pretrained=checkpoints/base\n"
        "  flashwam convert raw data --recipe libero/flash_wam data.processes=8 data.skip_bad=true"
    )
    parser = _command(commands, "convert", _run_convert, text, examples)
    parser.add_argument("raw", metavar="RAW", type=_path, help="folder above the raw data sets")
    parser.add_argument("out", metavar="OUT", type=_path, help="folder of the result")
    parser.add_argument("--recipe", required=True, metavar="RECIPE", help=_RECIPE_HELP)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=_OVERRIDE_HELP)
    _add_trust(parser)


def _check(commands: Any) -> None:
    text = """\
whether every file of a data set can be read
Reads every sample of a recipe whose data.source is lerobot, once, and lists each file that is damaged, foreign or does
not fit the others, with the reason. Exit status 1 if there is any; training skips them with data.skip_bad=true."""
    examples = "  flashwam check robotwin/flash_wam\n  flashwam check robotwin/flash_wam data.root=data/towels"
    parser = _command(commands, "check", _run_check, text, examples)
    parser.add_argument("recipe", metavar="RECIPE", help=_RECIPE_HELP)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=_OVERRIDE_HELP)
    _add_trust(parser)


def _import(commands: Any) -> None:
    text = """\
another tool's weights to a model folder
For weights in a layout that no model is loaded from, such as VideoVLA's single file: reads them without running code,
renames every key, and refuses a checkpoint with keys that are missing or match nothing. Settings say what the weights
do not say of themselves; an unknown one lists them. Everything else, such as a fine-tune in the released layout, is
used as it is."""
    examples = (
        "  flashwam import pretrain_ckpt_light.pt checkpoints/videovla --family cogvideox\n"
        "  flashwam import weights.pt checkpoints/mine --family cogvideox actions_per_frame=4 execute_frames=1 \\\n"
        "      'q01=[-0.05,-0.05,-0.05,-0.2,-0.2,-0.2,-1]' 'q99=[0.05,0.05,0.05,0.2,0.2,0.2,1]'"
    )
    parser = _command(commands, "import", _run_import, text, examples)
    parser.add_argument("source", metavar="CHECKPOINT", type=_path, help="what the other tool wrote")
    parser.add_argument("out", metavar="OUT", type=_path, help="folder of the result")
    parser.add_argument("--family", required=True, metavar="NAME", help="its model family; an unknown name lists them")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings of the family, such as robot=1")


def _train(commands: Any) -> None:
    text = """\
the many-step teacher, by flow matching on every stream
Trains the model of the recipe's `wam` section as its `train` section says. The result is <run>/teacher."""
    examples = (
        "  flashwam train teacher\n"
        "  flashwam train teacher train.steps=6000 train.lr=5e-4 --run-dir runs/longer\n"
        "  flashwam train teacher --dry-run          parameters, memory and time, before anything starts"
    )
    _add_recipe(_command(commands, "train", _run_train, text, examples))


def _distill(commands: Any) -> None:
    text = """\
the few-step student of a teacher
Distils the teacher at wam.pretrained as the recipe's `distill` section and its per-stream choices say: which
consistency function, how many anchors, which guidance. The result is <run>/student; it carries its consistency
functions and is always sampled with them."""
    examples = (
        "  flashwam distill flash_wam\n"
        "  flashwam distill flash_wam streams.video.consistency=linear --run-dir runs/linear_video\n"
        "  flashwam distill libero/flash_wam --dry-run          the plan at 5 billion parameters"
    )
    _add_recipe(_command(commands, "distill", _run_distill, text, examples))


def _evaluate(commands: Any) -> None:
    text = """\
success in closed loop, with intervals, error and latency
Drives a teacher or student in the simulator from seeds that no demonstration used. Success comes with its Wilson 95 %
interval. "1v/2a" means one video step and two action steps per chunk; "full" the teacher's own."""
    examples = (
        "  flashwam evaluate runs/flash_wam/student --episodes 50 --nfe 1v/1a --nfe 1v/2a\n"
        "  flashwam evaluate runs/teacher/teacher --nfe full --tasks reach-wall,faucet-turn\n"
        "  flashwam evaluate runs/naive_lcm/student --plain-euler          what the wrong sampler costs\n"
        "  flashwam evaluate runs/swift_full --auxiliary --nfe full        with what its training was shown beside\n"
        "  flashwam evaluate --server ws://127.0.0.1:29536 --episodes 50   a model that flashwam serve runs"
    )
    parser = _command(commands, "evaluate", _run_evaluate, text, examples)
    checkpoint_help = "folder of a teacher or student, or a run"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=_path, nargs="?", help=checkpoint_help)
    parser.add_argument("--server", metavar="URL", help="drive a served model instead; its server fixes the steps")
    parser.add_argument("--token-file", type=_path, metavar="FILE", help=f"{_TOKEN_HELP}, for --server")
    parser.add_argument("--episodes", type=_positive, metavar="N", help="episodes per task (default: the recipe's)")
    parser.add_argument("--nfe", action="append", metavar="1v/1a", help="steps per chunk; may be given several times")
    parser.add_argument("--tasks", type=_names, metavar="A,B", help="tasks (default: the recipe's)")
    parser.add_argument("--plain-euler", action="store_true", help="ignore the student's consistency functions")
    parser.add_argument("--auxiliary", action="store_true", help="show the policy its training modality too")
    parser.add_argument("--seed", type=int, default=0, help="shifts the evaluation seeds (default: 0)")
    parser.add_argument("--out", type=_path, metavar="DIR", help="folder of the results (default: the checkpoint's)")
    _add_trust(parser)
    _add_json(parser)


def _serve(commands: Any) -> None:
    text = """\
a teacher or student as a policy server
Speaks LingBot-VA's websocket and msgpack protocol, so that its clients work unchanged. Every connection is a session
of its own. GET /healthz answers OK; GET /metrics gives sessions and latency per stage as JSON. Ctrl-C ends it."""
    examples = (
        "  flashwam serve runs/flash_wam/student\n"
        "  flashwam serve runs/teacher/teacher --nfe 5v/10a --port 29056\n"
        "  flashwam serve runs/flash_wam/student --host 0.0.0.0 --token-file token.txt\n"
        "  flashwam serve checkpoints/lingbot-va-posttrain-robotwin --preset robotwin\n"
        "  flashwam serve checkpoints/videovla --preset videovla --base checkpoints/CogVideoX-5b-I2V"
    )
    parser = _command(commands, "serve", _run_serve, text, examples)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=_path, help="folder of a teacher or student, or a run")
    parser.add_argument("--nfe", metavar="1v/1a", help="steps per chunk, or full (default: the checkpoint's own)")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="for another tool's checkpoint, its family's settings: robotwin, libero, ...; an unknown name lists them",
    )
    parser.add_argument("--base", type=_path, metavar="DIR", help="checkpoint with vae/ and text_encoder/")
    parser.add_argument("--device", help="such as cuda:1 or cpu (default: cuda where there is one, or else cpu)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=29536, help="default: 29536; 0 takes a free one")
    parser.add_argument("--token-file", type=_path, metavar="FILE", help=_TOKEN_HELP)
    parser.add_argument("--max-sessions", type=_positive, default=16, metavar="N", help="default: 16")
    parser.add_argument(
        "--max-message-mib", type=_positive, default=128, metavar="N", help="longest message (default: 128)"
    )
    parser.add_argument(
        "--max-prompt-characters", type=_positive, default=8192, metavar="N", help="longest prompt (default: 8192)"
    )
    parser.add_argument(
        "--idle-seconds", type=_positive, default=600, metavar="N", help="ends silent sessions (default: 600)"
    )
    _add_trust(parser)


def _analyze(commands: Any) -> None:
    text = """\
which consistency function fits which stream
Before any training, per stream: where its noise lies, how strongly each consistency function lets a gradient through
there, and a verdict. With a trained run, the measured gradients are laid over the theory. Writes JSON, figures and
one page."""
    examples = (
        "  flashwam analyze flash_wam\n"
        "  flashwam analyze flash_wam streams.action.shift=0.05 --json -\n"
        "  flashwam analyze flash_wam --checkpoint runs/flash_wam"
    )
    parser = _command(commands, "analyze", _run_analyze, text, examples)
    parser.add_argument("recipe", metavar="RECIPE", help=_RECIPE_HELP)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=_OVERRIDE_HELP)
    parser.add_argument("--checkpoint", type=_path, metavar="RUN", help="a run whose measured gradients are shown too")
    parser.add_argument("--out", type=_path, metavar="DIR", help="folder (default: runs/analysis/<name>)")
    _add_trust(parser)
    _add_json(parser)


def _compare(commands: Any) -> None:
    text = """\
one table and one page for any set of evaluated runs
Success with intervals, mode commitment, errors, latency, training curves and decoded video, side by side, with a
verdict that says which differences are outside the intervals."""
    examples = "  flashwam compare runs/teacher runs/naive_lcm runs/flash_wam --out runs/comparison"
    parser = _command(commands, "compare", _run_compare, text, examples)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=_path, help="run folders with evaluations")
    parser.add_argument("--out", type=_path, default="runs/comparison", metavar="DIR", help="default: runs/comparison")
    _add_json(parser)


def _info(commands: Any) -> None:
    text = """\
this installation, or what a folder holds
Without a path: versions, device, rendering backend and what is missing, with the command that installs it.
With a path: a run, a teacher, a student or another tool's checkpoint that a family knows (as released, a fine-tune, a
step of the Flash-WAM release, LeRobot's): family, size, streams, consistency functions, origin. Exit status 1 where its
weights do not fit its configuration, are not whole or hold NaN; each fault is listed."""
    examples = "  flashwam info\n  flashwam info runs/flash_wam/student\n  flashwam info checkpoints/lingbot-va-base"
    parser = _command(commands, "info", _run_info, text, examples)
    parser.add_argument("path", metavar="PATH", nargs="?", type=_path, help="a run, model or checkpoint folder")
    _add_trust(parser)
    _add_json(parser)


def _path(text: str) -> Path:
    from flashwam.system.paths import user_path

    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _json_target(text: str) -> str:
    return text if text == "-" else str(_path(text))


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; got {text!r}")
    return int(text)


def _gib(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of GiB, such as 80; got {text!r}")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _run_demo(arguments: argparse.Namespace) -> None:
    from flashwam.demo.run import DEFAULT_FAMILY, demo

    family = arguments.family or DEFAULT_FAMILY
    demo(preset=arguments.preset, out=arguments.out, from_scratch=arguments.from_scratch, family=family)


def _loaded(arguments: argparse.Namespace, command: str) -> Any:
    """The recipe of a command's arguments; None where a dry run has said everything."""
    from flashwam.recipe.load import load_recipe, to_yaml

    recipe = load_recipe(arguments.recipe, arguments.overrides, **_trust(arguments))
    from flashwam.plan import check_names, make_plan

    if not arguments.dry_run:
        check_names(recipe, command)
        return recipe
    plan = make_plan(recipe, command, run_dir=getattr(arguments, "run_dir", None), **_trust(arguments))
    # The plan is a comment, so that the output is a recipe itself.
    print(to_yaml(recipe), end="")
    print("\n".join(f"# {line}".rstrip() for line in plan.lines()))
    return None


def _run_collect(arguments: argparse.Namespace) -> None:
    if recipe := _loaded(arguments, "collect"):
        if recipe.data.source != "metaworld":
            raise InputError(
                f"nothing to collect: data.source is {recipe.data.source!r}, whose episodes lie below data.root already"
            )
        from flashwam.pipeline.data import collect

        print(f"demonstrations: {collect(recipe)}")


def _run_plan(arguments: argparse.Namespace) -> None:
    from flashwam.plan import plan_lines, plan_numbers, plan_training
    from flashwam.recipe.load import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides, **_trust(arguments))
    chosen = {"gpus": arguments.gpus, "memory_gib": arguments.memory, "rank": arguments.rank}
    plan = plan_training(recipe, arguments.stage, **chosen, **_trust(arguments))
    _write_json(arguments.json, plan_numbers(plan))
    if arguments.json != "-":
        print("\n".join(plan_lines(plan)))


def _run_convert(arguments: argparse.Namespace) -> None:
    from flashwam.data.summary import summary_lines
    from flashwam.pipeline.sources import convert_raw as convert
    from flashwam.recipe.load import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides, **_trust(arguments))
    result = convert(recipe, arguments.raw, arguments.out)
    print(f"latents: {arguments.out} ({result.written} files written, {result.kept} kept, {result.episodes} episodes)")
    print("\n".join(summary_lines(result)))


def _run_import(arguments: argparse.Namespace) -> None:
    from flashwam.commands.info import describe, info_lines
    from flashwam.recipe.load import read_overrides
    from flashwam.student import import_weights

    settings = read_overrides(arguments.overrides)
    import_weights(arguments.source, arguments.out, family=arguments.family, **settings)
    print(f"model: {arguments.out}")
    print("\n".join(info_lines(describe(arguments.out))))


def _run_check(arguments: argparse.Namespace) -> int:
    from flashwam.pipeline.data import check
    from flashwam.recipe.load import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides, **_trust(arguments))
    if recipe.data.source != "lerobot":
        raise InputError(f"nothing to check: data.source is {recipe.data.source!r}, expected 'lerobot'")
    count, bad = check(recipe)
    print(f"samples: {count} below {recipe.data.root}, {len(bad)} of them or their data sets bad")
    _print_bad(bad)
    return 1 if bad else 0


def _print_bad(bad: Mapping[str, str]) -> None:
    for what, reason in bad.items():
        print(f"bad: {what}: {reason}" if what not in reason else f"bad: {reason}")


def _run_train(arguments: argparse.Namespace) -> None:
    if recipe := _loaded(arguments, "train"):
        from flashwam.pipeline.training import train

        print(f"teacher: {train(recipe, run_dir=arguments.run_dir, **_accept(arguments), **_trust(arguments))}")


def _run_distill(arguments: argparse.Namespace) -> None:
    if recipe := _loaded(arguments, "distill"):
        from flashwam.pipeline.training import distill

        print(f"student: {distill(recipe, run_dir=arguments.run_dir, **_accept(arguments), **_trust(arguments))}")


def _run_evaluate(arguments: argparse.Namespace) -> None:
    if (arguments.checkpoint is None) == (arguments.server is None):
        arguments.parser.error("give either CHECKPOINT or --server URL")
    common = {"episodes": arguments.episodes, "tasks": arguments.tasks, "seed": arguments.seed, "out": arguments.out}
    if arguments.server is not None:
        if arguments.nfe or arguments.plain_euler or arguments.auxiliary:
            arguments.parser.error(
                "--nfe, --plain-euler and --auxiliary are the server's to choose: see flashwam serve --help"
            )
        from flashwam.evaluation.served import evaluate_served

        results = evaluate_served(arguments.server, token=_token(arguments.token_file), **common)
    elif arguments.auxiliary:
        if arguments.plain_euler:
            arguments.parser.error("--plain-euler is for students; --auxiliary drives what was trained, unstripped")
        from flashwam.swiftvla.evaluation import evaluate_with_auxiliary

        results = evaluate_with_auxiliary(
            arguments.checkpoint, nfe=tuple(arguments.nfe or ("full",)), **common, **_trust(arguments)
        )
    else:
        from flashwam.evaluation.local import evaluate

        nfe = tuple(arguments.nfe or ("1v/1a",))
        common["plain_euler"] = arguments.plain_euler
        results = evaluate(arguments.checkpoint, nfe=nfe, **common, **_trust(arguments))
    _write_json(arguments.json, results)
    if arguments.json != "-":
        from flashwam.commands.info import evaluation_lines

        print("\n".join(evaluation_lines(results)))


def _run_serve(arguments: argparse.Namespace) -> None:
    import torch

    from flashwam.serve.policy import load_served
    from flashwam.serve.server import ServerOptions, serve

    options = ServerOptions(
        host=arguments.host,
        port=arguments.port,
        token=_token(arguments.token_file),
        max_message_bytes=arguments.max_message_mib * 2**20,
        max_prompt_characters=arguments.max_prompt_characters,
        idle_seconds=arguments.idle_seconds,
        max_sessions=arguments.max_sessions,
    )
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_served(
        arguments.checkpoint,
        nfe=arguments.nfe,
        device=device,
        preset=arguments.preset,
        base=arguments.base,
        **_trust(arguments),
    )
    serve(model, options)


def _token(file: Path | None) -> str | None:
    return file.read_text().strip() if file is not None else os.environ.get("FLASHWAM_TOKEN") or None


def _run_analyze(arguments: argparse.Namespace) -> None:
    from flashwam.recipe.load import load_recipe
    from flashwam.report.analyze import analyze

    recipe = load_recipe(arguments.recipe, arguments.overrides, **_trust(arguments))
    out = arguments.out or Path("runs") / "analysis" / recipe.name
    results = analyze(recipe, out=out, checkpoint=arguments.checkpoint)
    _write_json(arguments.json, results)
    if arguments.json != "-":
        from flashwam.commands.info import analysis_lines

        print("\n".join(analysis_lines(results)))
        print(f"page: {results['page']}")


def _run_compare(arguments: argparse.Namespace) -> None:
    from flashwam.report.compare import compare

    results = compare(arguments.runs, out=arguments.out)
    _write_json(arguments.json, results)
    if arguments.json != "-":
        print(results["table"], *results["verdict"], f"page: {results['page']}", sep="\n")


def _run_info(arguments: argparse.Namespace) -> int:
    from flashwam.commands.info import describe, has_problems, info_lines, installation

    facts = installation() if arguments.path is None else describe(arguments.path, **_trust(arguments))
    _write_json(arguments.json, facts)
    if arguments.json != "-":
        print("\n".join(info_lines(facts)))
    return 1 if has_problems(facts) else 0


def _write_json(target: str | None, results: Any) -> None:
    if target is None:
        return
    text = json.dumps(results, indent=2, default=str)
    if target == "-":
        print(text)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
