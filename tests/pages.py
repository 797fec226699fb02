# SPDX-License-Identifier: Apache-2.0
"""The commands and files of a documentation page, as a reader would type and save them."""

import re
import shlex
from pathlib import Path

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# ([\w.-]+\.yaml)\n")


def page_commands(page: str) -> list[list[str]]:
    """The words of every line of the blocks that name no language."""
    lines = [line for language, block in _BLOCK.findall(page) if not language for line in block.splitlines()]
    told = [shlex.split(line, comments=True) for line in lines]
    return [words for words in told if words]


def write_files(page: str, folder: Path) -> list[str]:
    """Writes the YAML blocks whose first line is a comment with a file's name; returns the names."""
    found = []
    for language, block in _BLOCK.findall(page):
        if language == "yaml" and (named := _NAMED.match(block)):
            (folder / named[1]).write_text(block)
            found.append(named[1])
    return found


def arguments_of(words: list[str]) -> list[str] | None:
    """The arguments of a line that runs flashwam, in one process or several; None of another program."""
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    return words[1:] if words[0] == "flashwam" else None
