# SPDX-License-Identifier: Apache-2.0
"""`flashwam pairs`: the draws of a teacher that a student learns from, made ahead."""

import argparse

from flashwam.commands.shared import Command, add_dry_run, add_recipe, load_to_run, trust

WORDS = """\
the draws of a teacher that a student learns from, made ahead
Draws every chunk that `flashwam distill` of the same recipe learns from, as far as it is not there yet; the
distillation then finds all of them and runs no teacher. Any number of these commands share the work, on as many
machines as share the folder. One that is stopped goes on where it was."""
EXAMPLES = (
    "  flashwam pairs pairs\n"
    "  torchrun --nproc_per_node 8 -m flashwam pairs libero/pairs\n"
    "  flashwam pairs libero/pairs --dry-run                how many there are, their bytes and the teacher's passes"
)


def _options(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_dry_run(parser)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.pipeline.training import check_pairs, make_pairs

    if recipe := load_to_run(arguments, "distill", check=check_pairs):
        pairs = make_pairs(recipe, **trust(arguments))
        count, made = sum(pairs.pairs), pairs.store.made
        print(f"pairs: {count:,} in {pairs.store.folder}, {pairs.store.bytes:,} bytes; {made:,} of them were made here")


COMMAND = Command(name="pairs", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
