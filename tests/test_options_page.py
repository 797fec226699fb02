# SPDX-License-Identifier: Apache-2.0
"""The page of options names every option of every method, with its default."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

from flashwam.distillation.methods import METHODS, find_method

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
NO_OPTIONS = {"self", "streams", "student", "teacher", "keep_target", "seed"}


def sections():
    """Method -> option -> its default as the page writes it."""
    found = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        rows = re.findall(r"^\| (`.*?) \| (.*?) \| .* \|$", part, flags=re.M)
        found[part.partition("`")[2].partition("`")[0]] = {
            name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)
        }
    return found


def test_every_method_has_a_section():
    assert set(sections()) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_these_options_and_defaults(name):
    parameters = inspect.signature(find_method(name).__init__).parameters
    known = {key: each.default for key, each in parameters.items() if key not in NO_OPTIONS}
    shown = {key: None if text == "none" else yaml.safe_load(text) for key, text in sections()[name].items()}
    assert shown == {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}
