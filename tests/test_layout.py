# SPDX-License-Identifier: Apache-2.0
"""Every folder and file of the tests runs alone: what it imports of the tests lies beside it or in `tests/`."""

import ast
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parent
FILES = sorted(TESTS.rglob("*.py"))


def imported(source: str) -> set[str]:
    """First names of all that a source imports, wherever it does."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def out_of_reach(path: Path, files: list[Path]) -> set[str]:
    """Names of other test files that one imports though pytest would not find them when it runs alone."""
    theirs = {file.stem for file in files if file.parent not in (path.parent, TESTS)}
    return theirs & imported(path.read_text())


def test_files_import_only_helpers_in_reach():
    far = {str(path.relative_to(TESTS)): out_of_reach(path, FILES) for path in FILES}
    assert not {path: names for path, names in far.items() if names}, "move the helper to tests/: all find it there"


def test_a_helper_of_another_folder_is_seen(tmp_path):
    one, other = tmp_path / "one" / "helper.py", tmp_path / "other" / "test_it.py"
    for path in (one, other):
        path.parent.mkdir()
    one.touch()
    for line in ("import helper", "from helper import x", "def f():\n    from helper.part import x as y"):
        other.write_text(line)
        assert out_of_reach(other, [one, other]) == {"helper"}
        assert not out_of_reach(other, [other.parent / "helper.py", other])


def test_no_two_files_share_a_name():
    """Without packages pytest knows a file by its bare name, and cannot collect a second one."""
    names = Counter(path.stem for path in FILES if path.name != "conftest.py")
    assert not [name for name, count in names.items() if count > 1]
