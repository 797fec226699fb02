# SPDX-License-Identifier: Apache-2.0
"""Every command that a page, a recipe or the help tells can be typed: options are there, and recipes take the settings."""

import re
import shlex
from pathlib import Path

import pytest
from pages import arguments_of

from flashwam.cli import COMMANDS, _parse
from flashwam.plan.names import check_names
from flashwam.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("integrations/*/*.md")))
_LINE = re.compile(r"^(?: {4}|)((?:[A-Z_]+=\S+ )?(?:flashwam|torchrun) .*)$", re.MULTILINE)
_INLINE = re.compile(r"`flashwam ([a-z]+)([^`]*)`")
_COMMENT = re.compile(r"^#(?:   | .*: )(flashwam .*)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"(?<![\w.-])[A-Z]{2,}[A-Z_/]*(?![\w.-])|\.\.\.")


def split(line):
    """The words of one or of several commands of a line, without what is set before them."""
    for part in re.split(r" && ", line):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words and (found := arguments_of(words)) is not None:
            yield found


def told():
    """Places of commands, and their arguments."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in _LINE.findall(text):
            yield page, line
    for recipe in sorted((ROOT / "recipes").rglob("*.yaml")):
        for line in _COMMENT.findall(re.sub(r"\\\n#\s*", " ", recipe.read_text())):
            yield recipe, line
    for command in COMMANDS:
        for line in command.examples.replace("\\\n", " ").splitlines():
            yield ROOT / "flashwam" / "cli.py", line.strip()


def named_options():
    """Commands and options that sentences name."""
    for page in PAGES:
        for command, rest in _INLINE.findall(" ".join(page.read_text().split())):
            for option in re.findall(r"(?<!\S)--[a-z][\w-]*", rest):
                yield command, option


CASES = [
    pytest.param(arguments, id=f"{page.relative_to(ROOT)}: {shlex.join(arguments)}")
    for page, line in dict.fromkeys(told())
    if not _PLACEHOLDER.search(line)
    for arguments in split(re.sub(r"  +[a-z(].*$", "", line))
]


@pytest.mark.parametrize("arguments", CASES)
def test_what_is_told_can_be_typed(arguments, capsys):
    try:
        parsed = _parse(arguments)
    except SystemExit as end:
        pytest.fail(f"flashwam {shlex.join(arguments)}: {capsys.readouterr().err or end}")
    recipe = getattr(parsed, "recipe", None)
    if isinstance(recipe, str) and not recipe.endswith(".yaml"):
        made = load_recipe(recipe, getattr(parsed, "overrides", None) or [])
        if arguments[0] in ("train", "distill"):
            check_names(made, arguments[0])


@pytest.mark.parametrize(("command", "option"), sorted(set(named_options())))
def test_an_option_that_a_sentence_names_is_there(command, option, capsys):
    with pytest.raises(SystemExit):
        _parse([command, "--help"])
    assert re.search(rf"(?<![\w-]){option}(?![\w-])", capsys.readouterr().out), f"flashwam {command} has no {option}"
