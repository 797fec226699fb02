# SPDX-License-Identifier: Apache-2.0
"""An installed package brings along what the repository holds."""

import ast
import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from flashwam.system.paths import ASSETS
from flashwam.wam.files import all_files

ROOT = Path(__file__).resolve().parents[1]
SHARE = "share/flashwam"
BY = {"mujoco": "metaworld"}
"""Packages that another one brings."""
SOURCES = ("flashwam", "tests", "analysis", "benchmarks", "integrations")


@pytest.fixture(scope="module")
def setup() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_recipe_is_installed_where_it_is_looked_for(setup):
    """`extends` and short names follow folders, so every folder has to be named, and under its own name."""
    installed = {}
    for target, patterns in setup["options.data_files"].items():
        for pattern in patterns.split():
            found = list(ROOT.glob(pattern))
            assert found, f"{pattern} names nothing"
            installed |= {path: f"{target}/{path.name}" for path in found}
    recipes = {path: f"{SHARE}/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert installed == recipes


def test_assets_are_installed_with_the_package(setup):
    assert ASSETS == ROOT / "flashwam" / "assets"
    patterns = setup["options.package_data"]["flashwam"].split()
    installed = {path for pattern in patterns for path in (ROOT / "flashwam").glob(pattern) if path.is_file()}
    assert installed - {ROOT / "flashwam" / "py.typed"} == {path for path in ASSETS.rglob("*") if path.is_file()}
    shipped = [files.miniature_teacher for files in all_files() if files.miniature_teacher is not None]
    assert shipped
    assert all((ASSETS / name / "flashwam.json") in installed for name in shipped)


def test_the_license_that_sources_name_is_there(setup):
    assert setup["metadata"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    assert set(setup["metadata"]["license_files"].split()) == {"LICENSE", "NOTICE"}
    assert (ROOT / "NOTICE").is_file()
    sources = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 300
    assert not [str(path) for path in sources if "SPDX-License-Identifier: Apache-2.0" not in path.open().readline()]


def asked_extras(text: str) -> set[str]:
    """The extras that a text tells to install, of a checkout, a wheel or by the package's name."""
    return {
        one
        for group in re.findall(r"(?:flashwam|['\"]\.|\.whl\)|wheel)\[([a-z,]+)\]", text)
        for one in group.split(",")
    }


def refusals(path: Path) -> Iterator[tuple[set[str], set[str]]]:
    """Packages that a source tries to import, and the extras that its message names where they are absent."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Try):
            extras = asked_extras(" ".join(ast.unparse(handler) for handler in node.handlers))
            inner = [one for line in node.body for one in ast.walk(line)]
            names = {alias.name for one in inner if isinstance(one, ast.Import) for alias in one.names}
            names |= {one.module for one in inner if isinstance(one, ast.ImportFrom)}
            if extras:
                yield {name.partition(".")[0] for name in names}, extras


def test_every_line_that_installs_names_extras_that_there_are(setup):
    files = [
        path for folder in (*SOURCES, "docs") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")
    ]
    files += [ROOT / name for name in ("README.md", "Makefile", "Dockerfile", ".ci/wheel")]
    asked = {path: asked_extras(path.read_text()) for path in files}
    extras = set(setup["options.extras_require"])
    assert not {path: found - extras for path, found in asked.items() if found - extras}
    assert all(asked[ROOT / name] for name in ("README.md", "Makefile", "Dockerfile", ".ci/wheel"))
    assert set().union(*asked.values()) == extras


def test_an_absent_packages_line_brings_it(setup):
    found = [one for path in (ROOT / "flashwam").rglob("*.py") for one in refusals(path)]
    assert len(found) > 8
    for names, extras in found:
        brought = {
            re.match(r"[\w-]+", line)[0] for extra in extras for line in setup["options.extras_require"][extra].split()
        }
        assert names
        assert {BY.get(name, name) for name in names} <= brought
