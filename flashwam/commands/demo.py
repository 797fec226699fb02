# SPDX-License-Identifier: Apache-2.0
"""`flashwam demo`: everything once at small size, on one page."""

import argparse

from flashwam.commands.shared import Command, path
from flashwam.demo.presets import PRESETS

WORDS = """\
everything once at small size, on one page
Collects demonstrations from a physics simulator, trains a small teacher, distils it to one step by several methods,
drives all of them in closed loop and writes one page with the schedule analysis, success, speed and the reasons.
The page exists within seconds and fills as results come. An interrupted demo resumes.

presets:
  smoke   2 minutes; checks that everything works, its numbers mean little
  quick   15 minutes on two cores
  pilot   an hour; seven methods once, at one learning rate
  full    hours; three seeds, learning rates searched for each of the seven"""
EXAMPLES = "  flashwam demo\n  flashwam demo --preset smoke --out /tmp/demo"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESETS, default="quick", help="size (default: quick)")
    parser.add_argument("--out", type=path, default="runs/demo", metavar="DIR", help="default: runs/demo")
    parser.add_argument("--from-scratch", action="store_true", help="train the teacher even where one is shipped")
    parser.add_argument(
        "--family",
        metavar="NAME",
        help="model family of the miniature; an unknown name lists them",
    )


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.demo.place import DEFAULT_FAMILY
    from flashwam.demo.run import demo

    family = arguments.family or DEFAULT_FAMILY
    demo(preset=arguments.preset, out=arguments.out, from_scratch=arguments.from_scratch, family=family)


COMMAND = Command(name="demo", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
