# SPDX-License-Identifier: Apache-2.0
"""Files and functions are of a size that one reads; tests lie as what they test does, and each of their files runs
alone: what it imports of the tests lies beside it or in `tests/`."""

import ast
from collections import Counter
from pathlib import Path
from statistics import median

from order import SLOW

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
FILES = sorted(TESTS.rglob("*.py"))
CODE = sorted(
    path
    for top in ("flashwam", "tests", "analysis", "benchmarks", "integrations", ".ci")
    for path in (ROOT / top).rglob("*.py")
)
NO_PART_OF_THE_PACKAGE = {"analysis", "benchmarks", "gpu"}
FILE, USUAL_FILE, FUNCTION = 400, 120, 60
"""Most lines of a file, of half of all files, and of a function without its docstring."""


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


def functions(source: str) -> dict[str, int]:
    """Function -> its lines without the docstring's."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            said = ast.get_docstring(node, clean=False) is not None
            documented = first.end_lineno - first.lineno + 1 if said else 0
            found[f"{node.name}, line {node.lineno}"] = node.end_lineno - node.lineno + 1 - documented
    return found


def test_files_have_a_size_that_one_reads():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in CODE}
    assert not {name: count for name, count in lines.items() if count > FILE}
    assert median(lines.values()) <= USUAL_FILE


def test_functions_fit_a_screen():
    long = {
        f"{path.relative_to(ROOT)}: {name}": count
        for path in CODE
        for name, count in functions(path.read_text()).items()
        if count > FUNCTION
    }
    assert not long


def test_lines_of_functions_are_counted_without_docstrings():
    source = 'def f():\n    """Says\n    much."""\n    return 1\n\n\nclass C:\n    async def g(self):\n        pass\n'
    assert functions(source) == {"f, line 1": 2, "g, line 8": 2}


def test_folders_of_tests_are_folders_of_the_package():
    tested = {path.relative_to(TESTS).parts[0] for path in FILES if path.parent != TESTS}
    assert tested - NO_PART_OF_THE_PACKAGE <= {path.parent.name for path in (ROOT / "flashwam").glob("*/__init__.py")}


def test_files_that_begin_first_are_there():
    assert [name for name in SLOW if not (TESTS / name).is_file()] == []
