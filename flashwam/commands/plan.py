# SPDX-License-Identifier: Apache-2.0
"""`flashwam plan`: memory, fit and time of a training, and memory of serving what it makes."""

import argparse
from typing import TYPE_CHECKING, Literal

from flashwam.commands.shared import Command, add_json, add_precision, add_recipe, load, positive, trust, write_json

if TYPE_CHECKING:
    from flashwam.recipe.sections import Recipe

WORDS = """\
memory, fit and time of a training on given GPUs
Builds the recipe's model without memory and says, for DDP, ZeRO-2, ZeRO-3, FSDP and LoRA: what weights, gradients,
optimiser, target, teacher and activations take on one GPU, what fits and by how much, how long all steps take. With
--serve: what the model takes on the GPU that drives a robot, with its autoencoder and the cache of a full window."""
EXAMPLES = (
    "  flashwam plan libero/flash_wam --gpus 4 --memory 80\n"
    "  flashwam plan robotwin/flash_wam --gpus 8 --memory 141 distill.batch_size=8 --json -\n"
    "  flashwam plan libero/flash_wam --stage train --memory 24 --rank 64\n"
    "  flashwam plan robotwin/flash_wam --serve --rollout graphed --memory 24\n"
    "  flashwam plan robotwin/flash_wam --serve --rollout graphed --memory 16 --precision fp8"
)


def _options(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--gpus", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--memory", type=_gib, metavar="GIB", help="of one GPU; without it nothing is said to fit")
    parser.add_argument("--stage", choices=("train", "distill"), help="default: distill, where the recipe has it")
    parser.add_argument("--rank", type=positive, metavar="R", help="of LoRA adapters (default: the recipe's, or 32)")
    parser.add_argument(
        "--serve", action="store_true", help="memory of serving the student, or with --stage train the teacher"
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="of the served model and its autoencoder (default: bfloat16)"
    )
    add_precision(parser)
    parser.add_argument(
        "--rollout", metavar="NAME", help="of `flashwam serve --rollout`, which decides how its cache grows"
    )
    parser.add_argument("--sessions", type=positive, metavar="N", help="episodes that are served at once (default: 1)")
    add_json(parser)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.plan import plan_lines, plan_numbers, plan_training
    from flashwam.system.errors import InputError

    recipe = load(arguments)
    names = ("dtype", "precision", "rollout", "sessions")
    served = {f"--{name}": getattr(arguments, name) for name in names}
    if arguments.serve:
        if arguments.gpus > 1 or arguments.rank is not None:
            raise InputError("--gpus and --rank are of a training; a model is served on one GPU: leave them out")
        _serve(arguments, recipe)
        return
    if given := [name for name, value in served.items() if value is not None]:
        raise InputError(f"{' and '.join(given)} say how a model is served: add --serve")
    chosen = {"gpus": arguments.gpus, "memory_gib": arguments.memory, "rank": arguments.rank}
    plan = plan_training(recipe, arguments.stage, **chosen, **trust(arguments))
    if write_json(arguments, plan_numbers(plan)):
        print("\n".join(plan_lines(plan)))


def _serve(arguments: argparse.Namespace, recipe: "Recipe") -> None:
    from flashwam.plan import plan_serving, serving_lines, serving_numbers

    kinds: dict[str | None, Literal["teacher", "student"]] = {"train": "teacher", "distill": "student"}
    plan = plan_serving(
        recipe,
        kinds.get(arguments.stage),
        dtype=arguments.dtype or "bfloat16",
        precision=arguments.precision,
        rollout=arguments.rollout,
        sessions=arguments.sessions or 1,
        memory_gib=arguments.memory,
        **trust(arguments),
    )
    if write_json(arguments, serving_numbers(plan)):
        print("\n".join(serving_lines(plan)))


def _gib(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of GiB, such as 80; got {text!r}")
    return value


COMMAND = Command(name="plan", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
