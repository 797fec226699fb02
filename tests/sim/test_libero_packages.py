# SPDX-License-Identifier: Apache-2.0
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
from libero_here import needs_libero

import flashwam.commands.installation
import flashwam.sim.libero.packages as packages
from flashwam.commands.info import info_lines
from flashwam.commands.installation import installation
from flashwam.sim.libero import LiberoEnv, LiberoTask, suite_names, suite_tasks
from flashwam.system.errors import MissingPackageError

ROOT = Path(__file__).resolve().parents[2]
BY_OTHERS = {"matplotlib", "gymnasium", "mujoco"}


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)


def test_what_is_looked_for_is_what_is_installed():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    asked = {re.match(r"[\w-]+", line)[0] for line in setup["options.extras_require"]["libero"].split()}
    assert asked == set(packages.MODULES.values()) - BY_OTHERS
    assert "options.extras_require" in (ROOT / "Makefile").read_text()


def test_pins_are_those_of_the_constraints():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    pinned = [line for line in setup["options.extras_require"]["libero"].split() if "==" in line]
    constraints = (ROOT / "constraints.txt").read_text().split()
    assert {line for line in pinned if "assets" not in line} <= set(constraints)


def test_without_the_packages_one_sentence_says_how_to_get_them(absent, tmp_path):
    assert set(packages.missing_packages()) == set(packages.MODULES.values())
    with pytest.raises(MissingPackageError, match=r"robosuite.*make libero"):
        packages.require_packages()
    with pytest.raises(MissingPackageError, match="make libero"):
        packages.benchmark_folder()
    task = LiberoTask(suite="libero_10", index=0, name="a", bddl_file=tmp_path, states_file=tmp_path)
    with pytest.raises(MissingPackageError, match="make libero"):
        LiberoEnv(task)


def test_without_a_checkout_the_command_is_pips(absent, monkeypatch, tmp_path):
    """A wheel has no Makefile; what `make libero` installs, the wheel's own metadata say."""
    monkeypatch.setattr(packages, "specifiers", lambda name, extra: ("bddl==1.0.1", "easydict>=1.13"))
    assert packages.install_command() == "make libero"
    monkeypatch.setattr(packages, "_ABOVE", tmp_path)
    first, second = "pip install 'flashwam[sim,report]'", "pip install --no-deps bddl==1.0.1 'easydict>=1.13'"
    with pytest.raises(MissingPackageError, match=re.escape(f": {first} && {second}   (docs/")):
        packages.require_packages()


@pytest.mark.skipif(not packages.missing_packages(), reason="LIBERO is here")
def test_suites_ask_for_the_packages():
    for ask in (suite_names, lambda: suite_tasks("libero_10")):
        with pytest.raises(MissingPackageError, match="make libero"):
            ask()


def test_the_installation_names_what_is_missing_and_the_command(monkeypatch):
    monkeypatch.setattr(flashwam.commands.installation, "_rendering", lambda: {"backend": None})
    monkeypatch.setattr(flashwam.commands.installation, "missing_packages", lambda: ("bddl",))
    monkeypatch.setattr(flashwam.commands.installation, "requirements", lambda name: {"libero": ("bddl",)})
    monkeypatch.setattr(flashwam.commands.installation, "package_version", lambda name: None)
    facts = installation()
    assert facts["simulators"] == {"metaworld": None, "libero": {"version": None, "missing": ["bddl"]}}
    assert (facts["install_libero"], facts["missing"]) == ("make libero", {"libero": ["bddl"]})
    assert "install" not in facts
    assert any("make libero" in line for line in info_lines(facts))


@needs_libero
def test_a_whole_installation_lacks_nothing():
    packages.require_packages()
    assert (packages.benchmark_folder() / "init_files").is_dir()
