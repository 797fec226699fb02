# SPDX-License-Identifier: Apache-2.0
"""`flashwam record`: a model's own episodes."""

import argparse

from flashwam.commands.shared import Command, add_trust, names, path, positive, trust

WORDS = """\
a model's own episodes, to learn from the pasts that it makes
Drives a teacher or student in scenes that neither demonstrations nor evaluations have, and writes every episode,
successful or not, in the layout of flashwam collect, with latents. A distillation learns from them with
distill.options.histories=OUT, see the recipe pairs_own_pasts."""
EXAMPLES = (
    "  flashwam record runs/pairs/student data/own_pasts --episodes 50\n"
    "  flashwam record runs/pairs/student data/own_pasts_2v2a --nfe 2v/2a --tasks reach-wall,button-wall"
)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="MODEL", type=path, help="folder of a teacher or student, or a run")
    parser.add_argument("out", metavar="OUT", type=path, help="folder of the episodes, of this model alone")
    parser.add_argument("--episodes", type=positive, metavar="N", help="episodes per task (default: the recipe's)")
    parser.add_argument("--nfe", default="1v/1a", metavar="1v/1a", help="steps per chunk; 'full' for the teacher's own")
    parser.add_argument("--tasks", type=names, metavar="A,B", help="tasks (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and noise (default: 0)")
    add_trust(parser)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.evaluation.recording import record

    counts = record(
        arguments.checkpoint,
        arguments.out,
        episodes=arguments.episodes,
        nfe=arguments.nfe,
        tasks=arguments.tasks,
        seed=arguments.seed,
        **trust(arguments),
    )
    for task, episodes in counts.episodes.items():
        print(f"{task}: {counts.success[task]} of {episodes} succeeded, {counts.frames[task]} pictures")
    print(f"recorded: {arguments.out}")


COMMAND = Command(name="record", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
