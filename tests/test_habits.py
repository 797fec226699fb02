# SPDX-License-Identifier: Apache-2.0
"""The files beside the package: those that keep it tidy, and those that say who may use it and how it changed."""

import importlib.util
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def checker():
    spec = importlib.util.spec_from_file_location("check_files", ROOT / ".ci" / "check_files.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a = 1", "must end with one newline"),
        (b"a = 1\n\n", "must end with one newline"),
        (b"a = 1 \n", ":1: ends with spaces"),
        (b"a = 1\n" + b"<" * 7 + b" main\n", ":2: holds a mark of a merge"),
        (b"\0" * 1_000_001, "1,000,001 bytes"),
    ],
)
def test_files_with_loose_ends_are_named(checker, tmp_path, capsys, content, fault):
    path = tmp_path / "file.py"
    path.write_bytes(content)
    assert checker.main([str(path)]) == 1
    assert fault in capsys.readouterr().out


def test_whole_files_pass(checker, tmp_path, capsys):
    for name, content in {"a.py": b"a = 1\n", "empty.py": b"", "b.bin": b"\0 \n", "c.txt": b"\xff \n"}.items():
        (tmp_path / name).write_bytes(content)
    assert checker.main([str(path) for path in tmp_path.iterdir()]) == 0
    assert capsys.readouterr().out == ""


def test_hooks_need_no_network():
    hooks = OmegaConf.load(ROOT / ".pre-commit-config.yaml")
    assert [repo.repo for repo in hooks.repos] == ["local"]
    for hook in hooks.repos[0].hooks:
        assert hook.language == "system"
        assert (ROOT / hook.entry.split()[1]).exists() or hook.entry.split()[0] == ".venv/bin/ruff"


def test_the_citation_and_the_changelog_know_the_version():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    citation = OmegaConf.load(ROOT / "CITATION.cff")
    assert citation.version == setup["metadata"]["version"]
    assert citation.license == setup["metadata"]["license"]
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[:2] == ["Unreleased", setup["metadata"]["version"]]


def test_docstrings_say_what_a_thing_is_for():
    """Verb first for a function, a noun for a class: "What ...", "How ...", "Where ..." and the like are riddles."""
    riddles = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("flashwam", "analysis", "benchmarks", "integrations", "tests", ".ci")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.match(r'\s*"""(What|Who|Whose|Whom|Which|How|Why|Whether|Where)\b', line)
    ]
    assert riddles == []


def test_types_are_checked_in_full():
    """An error that is looked away from has its name and the reason in its line; the page names the packages."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["mypy"]["strict"] == "true"
    folders = [ROOT / name.strip().replace(".", "/") for name in setup["mypy"]["packages"].split(",")]
    assert {"core", "recipe", "system", "run", "evaluation", "serve", "report"} <= {folder.name for folder in folders}
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (told,) = re.findall(r"mypy, strict, over (.*?) \(", page)
    assert set(re.findall(r"`(\w+)`", told)) == {folder.name for folder in folders}
    ignored = [
        line.strip()
        for path in (ROOT / "flashwam").rglob("*.py")
        for line in path.read_text().splitlines()
        if "type: ignore" in line and not re.search(r"# type: ignore\[[a-z, -]+\]  # \w+ \w+", line)
    ]
    assert ignored == []
    assert "make types\n" in (ROOT / ".ci" / "run").read_text()
