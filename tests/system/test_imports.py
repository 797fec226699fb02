# SPDX-License-Identifier: Apache-2.0
"""A file has nothing imported that is not ours; a user who names a class has."""

import json
import sys
from pathlib import Path

import pytest
from papers import need

from flashwam.cli import main
from flashwam.core.consistency import ConsistencyFunction, Linear, make_consistency_function
from flashwam.core.schedule import Schedule
from flashwam.core.streams import make_schedule
from flashwam.data.pictures import DECODERS, PictureDecoder
from flashwam.distillation.methods import METHODS, Method
from flashwam.recipe.load import differences, load_recipe
from flashwam.run.folder import prepare_run
from flashwam.system.imports import OLD_PATHS, class_name, find_class, foreign_paths, reading, trusting
from flashwam.wam import FAMILIES, WorldActionModel


@pytest.fixture(scope="module")
def registries():
    """Every registry that a file's names are looked up in, with what its classes derive from."""
    need("foresight")
    need("swiftvla")
    from flashwam.foresight.providers import PROVIDERS, TargetProvider

    return [
        (FAMILIES, WorldActionModel),
        (PROVIDERS, TargetProvider),
        (DECODERS, PictureDecoder),
        ({name: held for name, held in METHODS.items() if isinstance(held, str)}, Method),
    ]


MINE = """
from dataclasses import dataclass
from pathlib import Path

from flashwam.core.consistency import Linear

Path(__file__).with_suffix(".ran").touch()


@dataclass(frozen=True)
class Mine(Linear):
    @property
    def name(self):
        return f"{type(self).__module__}:{type(self).__qualname__}"
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module beside the user's files, which tells whether it ran."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MINE)
    yield name
    sys.modules.pop(name, None)


def ran(tmp_path: Path) -> bool:
    return any(tmp_path.glob("*.ran"))


@pytest.mark.parametrize("path", OLD_PATHS)
def test_every_path_that_was_ever_written_into_a_file_leads_to_a_class_of_ours(path, registries, tmp_path):
    name = OLD_PATHS[path]
    known, base = next((k, b) for k, b in registries if path.partition(":")[2] == k.get(name, "").partition(":")[2])
    with reading(tmp_path / "wam.json"):
        kind = find_class(path, base, known=known, what="class")
        assert kind is find_class(name, base, known=known, what="class")
    assert class_name(kind, known) == name


def test_every_known_class_is_written_by_its_short_name(registries):
    for known, base in registries:
        for name in known:
            assert class_name(find_class(name, base, known=known, what="class"), known) == name


def test_a_class_of_a_users_own_is_written_by_its_path():
    assert class_name(KnownNot, FAMILIES) == f"{KnownNot.__module__}:KnownNot"


class KnownNot(Linear):
    """No class of flashwam's."""


@pytest.mark.parametrize("build", [make_consistency_function, make_schedule])
def test_a_file_that_names_a_module_has_nothing_imported(build, module, tmp_path):
    with (
        reading(tmp_path / "flashwam.json"),
        pytest.raises(ValueError, match=f"import '{module}'.*--trust.*trust=True"),
    ):
        build({"name": f"{module}:Mine"})
    assert not ran(tmp_path)


def test_a_module_that_is_imported_already_is_refused_too(tmp_path):
    with reading(tmp_path / "flashwam.json"), pytest.raises(ValueError, match="--trust"):
        make_consistency_function(f"{KnownNot.__module__}:KnownNot")


@pytest.mark.parametrize("name", ["os:system", "flashwam.demo.run:demo", "flashwam.core.consistency:Linear", "a.b.c:D"])
def test_only_names_are_known_not_packages(name, tmp_path):
    with reading(tmp_path / "flashwam.json"), pytest.raises(ValueError, match="--trust"):
        make_consistency_function(name)


@pytest.mark.parametrize("name", ["evil-mod:X", "../evil:X", ":X", "a:", "a b:X", "evil", "", None, 3, ["linear"], {}])
def test_what_is_no_name_is_refused_whoever_says_it(name, tmp_path):
    for say in (reading(tmp_path / "wam.json"), trusting(True)):
        with say, pytest.raises(ValueError, match=r"expected one of|must be a name"):
            find_class(name, Schedule, known={}, what="schedule")


def test_a_user_who_names_a_class_has_it_imported(module, tmp_path):
    assert isinstance(make_consistency_function(f"{module}:Mine"), ConsistencyFunction)
    assert ran(tmp_path)


def test_trust_lasts_for_the_call_and_reaches_the_files_below_it(module, tmp_path):
    with trusting(True), reading(tmp_path / "a.json"), trusting(False), reading(tmp_path / "b.json"):
        make_consistency_function(f"{module}:Mine")
    with reading(tmp_path / "a.json"), pytest.raises(ValueError, match="--trust"):
        make_consistency_function(f"{module}:Mine")


def test_paths_are_found_wherever_they_stand():
    content = {"a": [{"name": "x.y:Z"}, "linear"], "b": {"c": "flashwam.policies.fusion:FusionPolicy"}, "d": "C:/x"}
    assert foreign_paths(content) == {"x.y:Z": "a.0.name"}


def run_of(folder: Path, module: str) -> Path:
    recipe = load_recipe("flash_wam", [f"streams.video.consistency={module}:Mine", f"run_dir={folder}"])
    return prepare_run(recipe)


def test_a_recipe_names_what_its_user_likes_and_his_run_goes_on(module, tmp_path):
    folder = run_of(tmp_path / "run", module)
    assert run_of(folder, module) == folder
    assert load_recipe(folder / "recipe.yaml").streams["video"].consistency.name == f"{module}:Mine"


@pytest.mark.parametrize(
    "line",
    [
        "streams.video.consistency={module}:Mine",
        "streams.action.consistency={{name: '{module}:Mine'}}",
        "wam.family={module}:Mine",
        "distill.method={module}:Mine",
        "distill.options={{providers: {{semantic: {{name: '{module}:Mine'}}}}}}",
    ],
)
def test_the_recipe_of_a_run_folder_is_a_file(line, module, tmp_path):
    folder = tmp_path / "run"
    recipe = load_recipe("flash_wam", [line.format(module=module), f"run_dir={folder}"])
    prepare_run(recipe)
    for marker in tmp_path.glob("*.ran"):
        marker.unlink()
    sys.modules.pop(module, None)
    with pytest.raises(ValueError, match=f"recipe.yaml names.*import '{module}'"):
        load_recipe(folder)
    assert not ran(tmp_path)
    assert differences(load_recipe(folder, trust=True), recipe) == {}


def test_a_run_of_another_recipe_is_told_without_importing_what_it_names(module, tmp_path):
    folder = run_of(tmp_path / "run", module)
    for marker in tmp_path.glob("*.ran"):
        marker.unlink()
    sys.modules.pop(module, None)
    with pytest.raises(ValueError, match=f"run of another recipe.*{module}:Mine"):
        prepare_run(load_recipe("flash_wam"), folder)
    assert not ran(tmp_path)


def test_a_path_beside_the_short_names_is_refused_with_the_file_that_names_it(tmp_path):
    (tmp_path / "wam.json").write_text(json.dumps({"family": "evil:Model", "settings": {}}))
    from flashwam.wam import load

    with pytest.raises(ValueError, match=r"wam.json names the model family 'evil:Model'.*import 'evil'"):
        load(tmp_path)


def test_what_a_user_names_himself_may_stand_in_the_files_he_reads(module, tmp_path):
    name = f"{module}:Mine"
    with trusting(False, named=[name]), reading(tmp_path / "a.json"):
        make_consistency_function(name)
        with pytest.raises(ValueError, match="--trust"):
            make_consistency_function(f"{module}:Other")


def test_trust_on_the_command_line_holds_for_that_call(module, tmp_path, capsys):
    folder = run_of(tmp_path / "run", module)
    for marker in tmp_path.glob("*.ran"):
        marker.unlink()
    sys.modules.pop(module, None)
    assert main(["info", str(folder)]) == 2
    assert f"would import '{module}'" in capsys.readouterr().err
    assert not ran(tmp_path)
    assert main(["info", str(folder), "--trust"]) == 0
    assert ran(tmp_path)
    assert main(["info", str(folder)]) == 2


def test_a_users_own_module_may_lie_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mine_alone.py").write_text(
        "from flashwam.core.consistency import Linear\n\nclass Mine(Linear):\n    pass\n"
    )
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with pytest.raises(ValueError, match="No module named 'mine_alone'"):
        make_consistency_function("mine_alone:Mine")
    monkeypatch.chdir(tmp_path)
    assert type(make_consistency_function("mine_alone:Mine")).__name__ == "Mine"
    # At the end, where it hides nothing that is installed.
    assert sys.path[-1] == str(tmp_path)
    sys.modules.pop("mine_alone")
