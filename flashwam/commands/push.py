# SPDX-License-Identifier: Apache-2.0
"""`flashwam push`: a model on the Hugging Face Hub."""

import argparse

from flashwam.commands.shared import Command, add_trust, path, trust

WORDS = """\
a teacher or student on the Hugging Face Hub
Uploads a model's folder with its card: weights, flashwam.json, codec and what was measured, never checkpoints of a
training. The card names licence, base model and data as far as the run knows them. Sign in first (hf auth login), or
set HF_TOKEN. Others then name it hf:OWNER/NAME, or download it."""
EXAMPLES = (
    "  flashwam push runs/libero_pairs my-lab/libero-pairs --private --license apache-2.0\n"
    "  flashwam push runs/libero_pairs/best my-lab/libero-pairs --create-pr --message 'The best by same_way'\n"
    "  flashwam serve hf:my-lab/libero-pairs"
)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=path, help="folder of a teacher or student, or a run")
    parser.add_argument("repo", metavar="OWNER/NAME", help="made where it is not there; hf: may stand before it")
    parser.add_argument("--private", action="store_true", help="for nobody else, where it is made now")
    parser.add_argument("--revision", metavar="BRANCH", help="default: the main one")
    parser.add_argument("--create-pr", action="store_true", help="propose it instead")
    license_help = (
        "of the weights, such as apache-2.0 (default: what the card says, or the model that it was made from)"
    )
    parser.add_argument("--license", metavar="ID", help=license_help)
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    add_trust(parser)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.run.folder import CARD_FILE
    from flashwam.run.model_info import model_folder
    from flashwam.student import push_to_hub
    from flashwam.system.released import License

    folder = model_folder(arguments.model)
    said = push_to_hub(
        folder,
        arguments.repo,
        private=True if arguments.private else None,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        commit_message=arguments.message,
        license=arguments.license,
        **trust(arguments),
    )
    print(f"{folder} is on the hub: {getattr(said, 'pr_url', None) or said}")
    if License.of_card(folder / CARD_FILE) is None:
        print("its card states no licence, without which nobody may use it: push it again with --license ID")


COMMAND = Command(name="push", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
