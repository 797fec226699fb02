# SPDX-License-Identifier: Apache-2.0
"""`flashwam push`: a model on the Hugging Face Hub."""

import argparse

from flashwam.commands.shared import Command, add_trust, path, trust

WORDS = """\
a teacher or student on the Hugging Face Hub
Uploads a model's folder with its card: weights, flashwam.json, codec and what was measured, never checkpoints of a
training. Sign in first (hf auth login), or set HF_TOKEN. Others then name it hf:OWNER/NAME, or download it."""
EXAMPLES = (
    "  flashwam push runs/libero_pairs my-lab/libero-pairs --private\n"
    "  flashwam push runs/libero_pairs/best my-lab/libero-pairs --create-pr --message 'The best by same_way'\n"
    "  flashwam serve hf:my-lab/libero-pairs"
)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=path, help="folder of a teacher or student, or a run")
    parser.add_argument("repo", metavar="OWNER/NAME", help="made where it is not there; hf: may stand before it")
    parser.add_argument("--private", action="store_true", help="for nobody else, where it is made now")
    parser.add_argument("--revision", metavar="BRANCH", help="default: the main one")
    parser.add_argument("--create-pr", action="store_true", help="propose it instead")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    add_trust(parser)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.run.model_info import model_folder
    from flashwam.student import push_to_hub

    folder = model_folder(arguments.model)
    said = push_to_hub(
        folder,
        arguments.repo,
        private=True if arguments.private else None,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        commit_message=arguments.message,
        **trust(arguments),
    )
    print(f"{folder} is on the hub: {getattr(said, 'pr_url', None) or said}")


COMMAND = Command(name="push", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
