# SPDX-License-Identifier: Apache-2.0
"""The package is built as docs/architecture.md draws it."""

import ast
import re
import sys
from pathlib import Path

import pytest
from imports import arrows, circles, folder_of, imports, modules, reachable

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flashwam"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
AT_THE_ROOT = {"__init__", "__main__", "cli", "sampling", "student"}
LATE_ALLOWED = ("commands", "cli")
"""A command loads what it runs when it runs."""

DRAWN = arrows(PAGE)
ALLOWED = reachable(DRAWN)


@pytest.fixture(scope="module")
def ours():
    """Every import of our own modules and of the standard library."""
    return imports(PACKAGE)


def crossings(found, *, name="flashwam"):
    """Imports between folders, as (from, to, import)."""
    for one in found:
        if one.target.partition(".")[0] == name:
            source, target = folder_of(one.source, DRAWN), folder_of(one.target, DRAWN)
            if source != target:
                yield source, target, one


def undrawn(found, *, name="flashwam"):
    """Imports that no arrow allows."""
    free = {name, "__main__"}
    return [
        str(one)
        for source, target, one in crossings(found, name=name)
        if source not in free and target not in ALLOWED.get(source, set())
    ]


def own_late(found, *, name="flashwam"):
    """Imports inside functions of what lies in the package or in the standard library."""
    return [
        str(one)
        for one in found
        if one.late
        and folder_of(one.source, DRAWN) not in LATE_ALLOWED
        and one.target.partition(".")[0] in {name, *sys.stdlib_module_names}
    ]


def own_circles(found, *, name="flashwam"):
    return circles((one.source, one.target) for one in found if one.target.partition(".")[0] == name)


def test_folders_import_along_drawn_arrows_alone(ours):
    assert undrawn(ours) == []


def test_every_arrow_that_is_drawn_is_needed(ours):
    used = {(source, target) for source, target, _ in crossings(ours)}
    assert {(source, target) for source, targets in DRAWN.items() for target in targets} - used == set()


def test_no_module_imports_itself_through_others(ours):
    assert own_circles(ours) == []
    assert circles((source, target) for source, targets in DRAWN.items() for target in targets) == []


def test_our_own_modules_are_imported_at_the_top(ours):
    assert own_late(ours) == []


def test_what_is_forbidden_is_found(tmp_path):
    """The checks above on a package that does all of it wrong."""
    package = tmp_path / "flashwam"
    for name, text in {
        "__init__": "",
        "system/files": "from flashwam.core import noise\n",
        "core/__init__": "",
        "core/noise": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flashwam.system.files import x\n",
        "core/late": "def f():\n    import json\n    import numpy\n    from flashwam.core import noise\n",
        "wam/cogvideox/net": "import flashwam.wam.lingbot_va.net\nfrom flashwam.core import noise\n",
        "wam/lingbot_va/net": "",
        "commands/info": "def f():\n    from flashwam.core import noise\n",
    }.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = imports(package)
    assert undrawn(found) == [
        "flashwam.system.files:1 imports flashwam.core.noise",
        "flashwam.wam.cogvideox.net:1 imports flashwam.wam.lingbot_va.net",
    ]
    assert own_circles(found) == [["flashwam.core.noise", "flashwam.system.files"]]
    assert own_late(found) == [
        "flashwam.core.late:2 imports json",
        "flashwam.core.late:4 imports flashwam.core.noise",
    ]


def test_at_the_root_lie_folders_and_the_modules_that_the_page_names():
    assert {path.stem for path in PACKAGE.glob("*.py")} == AT_THE_ROOT
    for module in AT_THE_ROOT - {"__init__"}:
        assert f"`{module}.py`" in PAGE
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= DRAWN.keys()


FOLDERS = re.findall(r"^\| `([\w/]+)` \| (.*) \|$", PAGE.split("## The words")[0], re.M)


def may_import(folder):
    """The second line of a folder's docstring."""
    direct = sorted(DRAWN[folder], key=list(DRAWN).index)
    if not direct:
        return "Imports nothing of flashwam."
    more = f", and what {'it imports' if len(direct) == 1 else 'they import'}" if ALLOWED[folder] > set(direct) else ""
    return f"Imports {' and '.join(direct)}{more}."


@pytest.mark.parametrize(("folder", "purpose"), FOLDERS, ids=[folder for folder, _ in FOLDERS])
def test_every_folder_says_what_it_is_for_and_what_it_may_import(folder, purpose):
    text = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text()))
    assert text == f"{purpose}\n\n{may_import(folder)}"


def test_a_part_of_a_folder_says_whose_it_is():
    for path in PACKAGE.rglob("__init__.py"):
        name = path.parent.relative_to(PACKAGE).as_posix()
        if name not in {".", *DRAWN}:
            text = ast.get_docstring(ast.parse(path.read_text()))
            assert text.endswith(f"\n\nA part of {folder_of(f'flashwam/{name}'.replace('/', '.'), DRAWN)}.")


def test_the_page_tells_of_every_folder():
    told = {folder for folder, _ in FOLDERS}
    assert told | {"sampling", "student", "cli"} == DRAWN.keys()
    assert {name.partition(".")[2].partition(".")[0] for name in modules(PACKAGE)} - {""} - AT_THE_ROOT <= told
