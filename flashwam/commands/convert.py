# SPDX-License-Identifier: Apache-2.0
"""`flashwam convert`: latents from a robot's own episodes."""

import argparse

from flashwam.commands.shared import RECIPE_HELP, Command, add_overrides, add_trust, load, path

WORDS = """\
latents from raw LeRobot episodes, versions 2 and 3
Encodes the pictures of every data set below RAW as the recipe's `data` section says (cameras, layout, camera_size,
stride), with the autoencoder and text encoder of wam.pretrained, and writes what `data.source: lerobot` reads
below OUT, with the actions' quantiles. data.processes episodes are encoded at a time. A file that is there is never
made again, so the same command goes on after an interruption."""
EXAMPLES = (
    "  flashwam convert raw/towels data/towels --recipe robotwin/flash_wam wam.pretrained=checkpoints/base\n"
    "  flashwam convert raw data --recipe libero/flash_wam data.processes=8 data.skip_bad=true"
)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("raw", metavar="RAW", type=path, help="folder above the raw data sets")
    parser.add_argument("out", metavar="OUT", type=path, help="folder of the result")
    parser.add_argument("--recipe", required=True, metavar="RECIPE", help=RECIPE_HELP)
    add_overrides(parser)
    add_trust(parser)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.data.summary import summary_lines
    from flashwam.pipeline.sources import convert_raw as convert

    recipe = load(arguments)
    result = convert(recipe, arguments.raw, arguments.out)
    print(f"latents: {arguments.out} ({result.written} files written, {result.kept} kept, {result.episodes} episodes)")
    print("\n".join(summary_lines(result)))


COMMAND = Command(name="convert", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
