# SPDX-License-Identifier: Apache-2.0
"""`flashwam import`: another tool's weights to a model folder."""

import argparse

from flashwam.commands.info import info_lines
from flashwam.commands.shared import Command, path

WORDS = """\
another tool's weights to a model folder
For weights in a layout that no model is loaded from, such as VideoVLA's single file: reads them without running code,
renames every key, and refuses a checkpoint with keys that are missing or match nothing. Settings say what the weights
do not say of themselves; an unknown one lists them. Everything else, such as a fine-tune in the released layout, is
used as it is."""
EXAMPLES = (
    "  flashwam import pretrain_ckpt_light.pt checkpoints/videovla --family cogvideox\n"
    "  flashwam import weights.pt checkpoints/mine --family cogvideox actions_per_frame=4 execute_frames=1 \\\n"
    "      'q01=[-0.05,-0.05,-0.05,-0.2,-0.2,-0.2,-1]' 'q99=[0.05,0.05,0.05,0.2,0.2,0.2,1]'"
)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="CHECKPOINT", type=path, help="what the other tool wrote")
    parser.add_argument("out", metavar="OUT", type=path, help="folder of the result")
    parser.add_argument("--family", required=True, metavar="NAME", help="its model family; an unknown name lists them")
    told = "settings of the family, such as robot=1"
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help=told)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.commands.describe import describe
    from flashwam.recipe.load import read_overrides
    from flashwam.student import import_weights

    settings = read_overrides(arguments.overrides)
    import_weights(arguments.source, arguments.out, family=arguments.family, **settings)
    print(f"model: {arguments.out}")
    print("\n".join(info_lines(describe(arguments.out))))


COMMAND = Command(name="import", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
