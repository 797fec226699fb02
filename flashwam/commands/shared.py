# SPDX-License-Identifier: Apache-2.0
"""The form of a command, and the options that several have."""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashwam.core.precision import PRECISIONS
from flashwam.core.temperature import Temperature, parse_temperature
from flashwam.system.files import write_whole
from flashwam.system.paths import keep_compiled, user_path

__all__ = [
    "TIMING",
    "Command",
    "add_dry_run",
    "add_json",
    "add_overrides",
    "add_precision",
    "add_recipe",
    "add_run",
    "add_temperature",
    "add_token",
    "add_training",
    "add_trust",
    "given",
    "is_given",
    "load",
    "load_to_run",
    "names",
    "path",
    "positive",
    "read_token",
    "run_options",
    "trust",
    "write_json",
]

TIMING = ("latency_ms", "latency_scale", "meanwhile", "control_hz", "patience")
"""Options of a world that does not wait, beside --real-time."""
RECIPE_HELP = "a YAML file, a run folder, or a short name such as flash_wam (see recipes/)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand of `flashwam`.

    Args:
        name: Its word on the command line.
        words: A line for the list of commands, then what it does.
        examples: Command lines with a word on each.
        options: Adds its arguments to a parser.
        action: Runs it, imports what it needs for that, and returns the exit status where it is not 0.
    """

    name: str
    words: str
    examples: str
    options: Callable[[argparse.ArgumentParser], None]
    action: Callable[[argparse.Namespace], int | None]

    def add_to(self, commands: Any) -> None:
        """Adds its parser to argparse's subparsers."""
        title, _, body = self.words.partition("\n")
        parser = commands.add_parser(
            self.name,
            help=title,
            description=f"{title}\n{body}",
            epilog=f"examples:\n{self.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--debug", action="store_true", help="show tracebacks and debugging messages")
        self.options(parser)
        parser.set_defaults(run=self.action, parser=parser)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds RECIPE, KEY=VALUE and --trust, which `load` reads."""
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    add_overrides(parser)
    add_trust(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds KEY=VALUE."""
    told = "values that replace the recipe's, such as distill.steps=500 streams.video.consistency=linear"
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help=told)


def load(arguments: argparse.Namespace) -> Any:
    """The recipe that the arguments name, with their overrides."""
    from flashwam.recipe.load import load_recipe

    return load_recipe(arguments.recipe, arguments.overrides, **trust(arguments))


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Adds --dry-run, which `load_to_run` reads."""
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and a plan, and do nothing")


def load_to_run(
    arguments: argparse.Namespace, command: str, *, check: Callable[[Any], None] = lambda recipe: None
) -> Any:
    """The recipe that a command is to run, its names checked; None where a dry run has said everything.

    Args:
        arguments: With those of `add_recipe` and `add_dry_run`.
        command: Section that it runs.
        check: Refuses a recipe that the command is not for, before anything is said of it.
    """
    from flashwam.plan import check_names, make_plan
    from flashwam.recipe.load import to_yaml

    recipe = load(arguments)
    check(recipe)
    if not arguments.dry_run:
        check_names(recipe, command)
        if getattr(getattr(recipe, command, None), "compile", False):
            keep_compiled()
        return recipe
    plan = make_plan(recipe, command, run_dir=getattr(arguments, "run_dir", None), **trust(arguments))
    # The plan is a comment, so that the output is a recipe itself.
    print(to_yaml(recipe), end="")
    print("\n".join(f"# {line}".rstrip() for line in plan.lines()))
    return None


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds what concerns the folder of a run, which `run_options` reads."""
    parser.add_argument("--run-dir", type=path, metavar="DIR", help="folder of the run (default: runs/<name>)")
    parser.add_argument(
        "--accept-changed-inputs",
        action="store_true",
        help="go on with a run although its data, teacher or autoencoder are not those that it began with",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a training: those of `load_to_run` and `run_options`."""
    add_recipe(parser)
    add_dry_run(parser)
    add_run(parser)


def run_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a training beside its recipe."""
    accepted = arguments.accept_changed_inputs
    return {"run_dir": arguments.run_dir, "accept_changed_inputs": accepted, **trust(arguments)}


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds --trust, which `trust` reads."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import the classes that saved models and run folders name beside flashwam's own, and run their code; "
        "for files of your own or of somebody you trust",
    )


def trust(arguments: argparse.Namespace) -> dict[str, bool]:
    """The keywords that --trust adds to a call."""
    return {"trust": True} if arguments.trust else {}


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json, which `write_json` reads."""
    parser.add_argument(
        "--json",
        type=lambda text: text if text == "-" else path(text),
        metavar="FILE",
        help="write the numbers as JSON; '-' prints them instead of the text",
    )


def write_json(arguments: argparse.Namespace, results: Any) -> bool:
    """Writes the numbers where --json asks for them; whether the text is to be printed too."""
    if arguments.json is None:
        return True
    text = json.dumps(results, indent=2, default=str)
    if arguments.json == "-":
        print(text)
        return False
    write_whole(arguments.json, text + "\n")
    return True


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Adds --precision."""
    told = "numbers in which the blocks' linear layers multiply: fp8 rounds them to 8 bits (default: the recipe's)"
    parser.add_argument("--precision", choices=PRECISIONS, help=told)


def add_temperature(parser: argparse.ArgumentParser) -> None:
    """Adds --temperature."""
    told = (
        "of the noise that chunks begin with, 0 to 10: below 1 they differ less; action=0.5 for one stream alone "
        "(default: the model's, 1 as a rule)"
    )
    parser.add_argument("--temperature", type=_temperature, metavar="T", help=told)


def is_given(value: Any) -> bool:
    """Tells whether an option was given; a number may be 0."""
    return value is not None and value is not False


def given(arguments: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of some options that were given, by their names among the arguments."""
    return [name for name in names if is_given(getattr(arguments, name))]


def _temperature(text: str) -> Temperature:
    try:
        return parse_temperature(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_token(parser: argparse.ArgumentParser, purpose: str = "") -> None:
    """Adds --token-file, which `read_token` reads."""
    told = "file with the token that clients send; FLASHWAM_TOKEN in the environment does the same"
    parser.add_argument("--token-file", type=path, metavar="FILE", help=told + purpose)


def read_token(arguments: argparse.Namespace) -> str | None:
    """The token of a server and its clients; None where there is none."""
    from flashwam.serve.access import given_token

    return given_token(arguments.token_file)


def path(text: str) -> Path:
    """A path as the user wrote it, with ~ for a home folder."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def positive(text: str) -> int:
    """A whole number of at least 1."""
    # str.isdigit takes "²" too, of which int makes nothing.
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; got {text!r}")
    return int(text)
