# SPDX-License-Identifier: Apache-2.0
"""An installed package brings along what the repository holds."""

from configparser import ConfigParser
from pathlib import Path

import pytest

from flashwam.system.paths import ASSETS
from flashwam.wam.files import all_files

ROOT = Path(__file__).resolve().parents[1]
SHARE = "share/flashwam"
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
