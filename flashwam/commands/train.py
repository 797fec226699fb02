# SPDX-License-Identifier: Apache-2.0
"""`flashwam train`: the many-step teacher."""

import argparse

from flashwam.commands.shared import Command, add_training, load_to_run, run_options

WORDS = """\
the many-step teacher, by flow matching on every stream
Trains the model of the recipe's `wam` section as its `train` section says. The result is <run>/teacher."""
EXAMPLES = (
    "  flashwam train teacher\n"
    "  flashwam train teacher train.steps=6000 train.lr=5e-4 --run-dir runs/longer\n"
    "  flashwam train teacher --dry-run          parameters, memory and time, before anything starts"
)


def _action(arguments: argparse.Namespace) -> None:
    if recipe := load_to_run(arguments, "train"):
        from flashwam.pipeline.training import train

        print(f"teacher: {train(recipe, **run_options(arguments))}")


COMMAND = Command(name="train", words=WORDS, examples=EXAMPLES, options=add_training, action=_action)
