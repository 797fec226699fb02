# SPDX-License-Identifier: Apache-2.0
"""`flashwam collect`: demonstrations from a simulator."""

import argparse

from flashwam.commands.shared import Command, add_dry_run, add_recipe, load_to_run
from flashwam.system.errors import InputError

WORDS = """\
demonstrations from a simulator, by scripted experts
Writes LeRobot v2.1 folders below data.root: one per task, with videos and actions. What a training needs beside
them (autoencoder, latents, text embeddings, quantiles) it makes itself.
Tasks with several ways to succeed get data.multimodal_episodes, and a coin chooses the way."""
EXAMPLES = "  flashwam collect teacher\n  flashwam collect teacher 'data.tasks=[reach-wall]' data.processes=4"


def _options(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_dry_run(parser)


def _action(arguments: argparse.Namespace) -> None:
    if recipe := load_to_run(arguments, "collect"):
        if not recipe.data.simulated:
            raise InputError(
                f"nothing to collect: data.source is {recipe.data.source!r}, whose episodes lie below data.root already"
            )
        from flashwam.pipeline.data import collect

        print(f"demonstrations: {collect(recipe)}")


COMMAND = Command(name="collect", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
