# SPDX-License-Identifier: Apache-2.0
"""`flashwam check`: whether every file of a data set can be read."""

import argparse
from collections.abc import Mapping

from flashwam.commands.shared import Command, add_recipe, load
from flashwam.system.errors import InputError

WORDS = """\
whether every file of a data set can be read
Reads every sample of a recipe whose data.source is lerobot, once, and lists each file that is damaged, foreign or does
not fit the others, with the reason. Exit status 1 if there is any; training skips them with data.skip_bad=true."""
EXAMPLES = "  flashwam check robotwin/flash_wam\n  flashwam check robotwin/flash_wam data.root=data/towels"


def _options(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)


def _action(arguments: argparse.Namespace) -> int:
    from flashwam.pipeline.data import check

    recipe = load(arguments)
    if recipe.data.source != "lerobot":
        raise InputError(f"nothing to check: data.source is {recipe.data.source!r}, expected 'lerobot'")
    count, bad = check(recipe)
    print(f"samples: {count} below {recipe.data.root}, {len(bad)} of them or their data sets bad")
    _print_bad(bad)
    return 1 if bad else 0


def _print_bad(bad: Mapping[str, str]) -> None:
    for what, reason in bad.items():
        print(f"bad: {what}: {reason}" if what not in reason else f"bad: {reason}")


COMMAND = Command(name="check", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
