# SPDX-License-Identifier: Apache-2.0
import ast
import pickle
from pathlib import Path

import pytest

import flashwam
from flashwam.system.errors import (
    DivergedError,
    FailedError,
    InputError,
    MissingFileError,
    MissingPackageError,
    UserError,
)

KINDS = {
    DivergedError: FloatingPointError,
    FailedError: RuntimeError,
    InputError: ValueError,
    MissingFileError: FileNotFoundError,
    MissingPackageError: ImportError,
}
PACKAGE = Path(flashwam.__file__).parent


@pytest.mark.parametrize(("kind", "built_in"), KINDS.items())
def test_a_user_error_is_caught_as_the_built_in_error_of_its_sort_and_as_no_other(kind, built_in):
    assert issubclass(kind, UserError)
    assert issubclass(kind, built_in)
    assert not any(issubclass(kind, other) for other in KINDS.values() if other is not built_in)


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_error_keeps_its_message_between_processes(kind):
    back = pickle.loads(pickle.dumps(kind("x is missing")))
    assert type(back) is kind
    assert str(back) == "x is missing"


def raised(source: str) -> set[str]:
    """Names of the errors that a source raises by a call."""
    nodes = [node.exc for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


def test_what_is_missing_is_told_the_user_and_never_raised_as_a_built_in_error():
    assert raised("raise ImportError('x') from error") == {"ImportError"}
    bare = {"FileNotFoundError", "ImportError", "ModuleNotFoundError"}
    found = {str(path.relative_to(PACKAGE)): bare & raised(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert not {path: names for path, names in found.items() if names}, "raise a kind of UserError"
