# SPDX-License-Identifier: Apache-2.0
"""The policy for LeRobot is found by LeRobot's conventions, and flashwam does without LeRobot. Its own tests lie beside
it and need LeRobot: `pytest integrations/lerobot`."""

import ast
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "integrations" / "lerobot"
NAME = "lerobot_policy_flashwam"


def settings(path: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read(path)
    return parser


def defined(module: str) -> dict[str, ast.AST]:
    """Name -> class or function of one of the plugin's modules."""
    tree = ast.parse((PLUGIN / NAME / f"{module}.py").read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def test_the_wheel_has_the_name_that_lerobot_looks_for():
    setup, own = settings(PLUGIN / "setup.cfg"), settings(ROOT / "setup.cfg")
    assert setup["metadata"]["name"] == setup["options"]["packages"] == NAME
    assert (PLUGIN / NAME / "__init__.py").is_file()
    assert setup["metadata"]["license"] == own["metadata"]["license"]
    needed = setup["options"]["install_requires"].split()
    assert [requirement.partition(">")[0] for requirement in needed] == ["flashwam", "lerobot"]


def test_lerobot_finds_policy_and_processors_beside_the_options():
    """It registers the options' class, and takes the other names from the module's and the class's."""
    options = defined("configuration_flashwam")["FlashwamConfig"]
    assert isinstance(options, ast.ClassDef)
    registered = [
        node.args[0].value
        for node in options.decorator_list
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".register_subclass")
    ]
    assert registered == ["flashwam"]
    assert "FlashwamPolicy" in defined("modeling_flashwam")
    assert "make_flashwam_pre_post_processors" in defined("processor_flashwam")


def test_the_page_names_every_option():
    options = defined("configuration_flashwam")["FlashwamConfig"]
    names = [node.target.id for node in options.body if isinstance(node, ast.AnnAssign)]
    page = (PLUGIN / "README.md").read_text()
    assert len(names) > 8
    assert [name for name in names if f"`{name}`" not in page] == []


def test_flashwam_does_without_lerobot():
    assert not [name for name, line in settings(ROOT / "setup.cfg")["options"].items() if "lerobot" in line]
    found = []
    for path in (ROOT / "flashwam").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [str(path) for name in names if name.partition(".")[0].startswith("lerobot")]
    assert found == []


def test_lerobot_takes_the_type():
    pytest.importorskip("lerobot", reason="needs LeRobot: pip install ./integrations/lerobot")
    pytest.importorskip(NAME, reason="needs pip install ./integrations/lerobot")
    from lerobot.policies import get_policy_class

    assert get_policy_class("flashwam").__name__ == "FlashwamPolicy"
