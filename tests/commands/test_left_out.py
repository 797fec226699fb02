# SPDX-License-Identifier: Apache-2.0
"""The complaint about words that a command line lacks names those that must be there and no others."""

import argparse
import re

import pytest

from flashwam.cli import COMMANDS, main


def parsers():
    top = argparse.ArgumentParser()
    group = top.add_subparsers()
    for command in COMMANDS:
        command.add_to(group)
    return group.choices


def required(parser):
    """Those without which it cannot be called: positions of at least one word, and options that say so."""
    return [
        action.metavar or "/".join(action.option_strings)
        for action in parser._actions
        if (action.nargs not in ("*", "?") and not action.option_strings and action.dest != "help")
        or (action.option_strings and action.required)
    ]


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_only_what_must_be_there_is_missed(name, capsys):
    needed = required(parsers()[name])
    if not needed:
        return
    with pytest.raises(SystemExit):
        main([name])
    (told,) = re.findall(r"the following arguments are required: (.*)", capsys.readouterr().err)
    assert "KEY=VALUE" not in told
    assert len(told.split(", ")) == len(needed)


def test_words_that_may_be_left_out_are_none(capsys):
    for name, parser in parsers().items():
        for action in parser._actions:
            assert action.nargs != "*" or action.default == [], (name, action.dest)
