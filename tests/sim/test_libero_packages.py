# SPDX-License-Identifier: Apache-2.0
import re
import shlex
import sys
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
    """No package of LIBERO, in the environment that `make` fills."""
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "prefix", str(ROOT / ".venv"))
    monkeypatch.chdir(ROOT)


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


@pytest.fixture
def elsewhere(absent, monkeypatch, tmp_path):
    """Another environment than the checkout's, with a pip of its own."""
    pip = tmp_path / "env" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.touch(mode=0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("PATH", str(pip.parent))
    return tmp_path / "env"


def test_without_a_checkout_the_command_is_pips(elsewhere, monkeypatch, tmp_path):
    """A wheel has no Makefile; what `make libero` installs, the wheel's own metadata say."""
    monkeypatch.setattr(packages, "specifiers", lambda name, extra: ("bddl==1.0.1", "easydict>=1.13"))
    monkeypatch.setattr(packages, "_ABOVE", tmp_path)
    first, second = "pip install 'flashwam[sim,report]'", "pip install --no-deps bddl==1.0.1 'easydict>=1.13'"
    with pytest.raises(MissingPackageError, match=re.escape(f": {first} && {second}   (docs/")):
        packages.require_packages()


def test_the_command_is_for_the_environment_that_runs(absent, monkeypatch, tmp_path):
    assert packages.install_command() == "make libero"
    monkeypatch.chdir(tmp_path)
    assert packages.install_command() == f"make -C {ROOT} libero"


def test_make_is_not_named_where_it_fills_another_environment(elsewhere, monkeypatch):
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    asked = setup["options.extras_require"]["libero"].split()
    first, _, second = packages.install_command().partition(" && ")
    assert shlex.split(first) == ["pip", "install", "flashwam[sim,report]"]
    assert shlex.split(second) == ["pip", "install", "--no-deps", *asked]
    # Of a checkout that is not installed there, only on the path.
    monkeypatch.setattr(packages, "package_version", lambda name: None)
    first = packages.install_command().partition(" && ")[0]
    assert shlex.split(first) == ["pip", "install", "-e", f"{ROOT}[sim,report]"]
    # The pip that a shell would find is another environment's.
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sys, "executable", str(elsewhere / "bin" / "python"))
    for line in packages.install_command().split(" && "):
        assert shlex.split(line)[:4] == [sys.executable, "-m", "pip", "install"]


@pytest.mark.skipif(not packages.missing_packages(), reason="LIBERO is here")
def test_suites_ask_for_the_packages():
    for ask in (suite_names, lambda: suite_tasks("libero_10")):
        with pytest.raises(MissingPackageError, match=re.escape(packages.install_command())):
            ask()


def test_the_installation_names_what_is_missing_and_the_command(monkeypatch):
    monkeypatch.setattr(flashwam.commands.installation, "_rendering", lambda: {"backend": None})
    monkeypatch.setattr(flashwam.commands.installation, "missing_packages", lambda: ("bddl",))
    monkeypatch.setattr(flashwam.commands.installation, "requirements", lambda name: {"libero": ("bddl",)})
    monkeypatch.setattr(flashwam.commands.installation, "package_version", lambda name: None)
    monkeypatch.setattr(sys, "prefix", str(ROOT / ".venv"))
    monkeypatch.chdir(ROOT)
    facts = installation()
    assert facts["simulators"] == {"metaworld": None, "libero": {"version": None, "missing": ["bddl"]}}
    assert (facts["install_libero"], facts["missing"]) == ("make libero", {"libero": ["bddl"]})
    assert "install" not in facts
    assert any("make libero" in line for line in info_lines(facts))


@needs_libero
def test_a_whole_installation_lacks_nothing():
    packages.require_packages()
    assert (packages.benchmark_folder() / "init_files").is_dir()
