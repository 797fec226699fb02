# SPDX-License-Identifier: Apache-2.0
"""`flashwam plan`: memory, fit and time of a training."""

import argparse

from flashwam.commands.shared import Command, add_json, add_recipe, load, positive, trust, write_json

WORDS = """\
memory, fit and time of a training on given GPUs
Builds the recipe's model without memory and says, for DDP, ZeRO-2, ZeRO-3, FSDP and LoRA: what weights, gradients,
optimiser, target, teacher and activations take on one GPU, what fits and by how much, how long all steps take."""
EXAMPLES = (
    "  flashwam plan libero/flash_wam --gpus 4 --memory 80\n"
    "  flashwam plan robotwin/flash_wam --gpus 8 --memory 141 distill.batch_size=8 --json -\n"
    "  flashwam plan libero/flash_wam --stage train --memory 24 --rank 64"
)


def _options(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--gpus", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--memory", type=_gib, metavar="GIB", help="of one GPU; without it nothing is said to fit")
    parser.add_argument("--stage", choices=("train", "distill"), help="default: distill, where the recipe has it")
    parser.add_argument("--rank", type=positive, metavar="R", help="of LoRA adapters (default: the recipe's, or 32)")
    add_json(parser)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.plan import plan_lines, plan_numbers, plan_training

    recipe = load(arguments)
    chosen = {"gpus": arguments.gpus, "memory_gib": arguments.memory, "rank": arguments.rank}
    plan = plan_training(recipe, arguments.stage, **chosen, **trust(arguments))
    if write_json(arguments, plan_numbers(plan)):
        print("\n".join(plan_lines(plan)))


def _gib(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of GiB, such as 80; got {text!r}")
    return value


COMMAND = Command(name="plan", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
