# SPDX-License-Identifier: Apache-2.0
"""`flashwam distill`: the few-step student of a teacher."""

import argparse

from flashwam.commands.shared import Command, add_training, load_to_run, run_options

WORDS = """\
the few-step student of a teacher
Distils the teacher at wam.pretrained as the recipe's `distill` section and its per-stream choices say: which
consistency function, how many anchors, which guidance. The result is <run>/student; it carries its consistency
functions and is always sampled with them."""
EXAMPLES = (
    "  flashwam distill flash_wam\n"
    "  flashwam distill flash_wam streams.video.consistency=linear --run-dir runs/linear_video\n"
    "  flashwam distill libero/flash_wam --dry-run          the plan at 5 billion parameters"
)


def _action(arguments: argparse.Namespace) -> None:
    if recipe := load_to_run(arguments, "distill"):
        from flashwam.pipeline.training import distill

        print(f"student: {distill(recipe, **run_options(arguments))}")


COMMAND = Command(name="distill", words=WORDS, examples=EXAMPLES, options=add_training, action=_action)
