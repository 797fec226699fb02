# SPDX-License-Identifier: Apache-2.0
"""A shipped recipe begins with the folder that the recipe it comes from writes."""

from pathlib import Path

import pytest

from flashwam.distillation.methods import find_method
from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe
from flashwam.run.folder import run_folder

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))


def written(file: Path) -> str:
    """The folder of the model that a recipe makes."""
    recipe = load_recipe(file)
    loop = recipe.train if recipe.distill is None else recipe.distill
    return str(run_folder(recipe) / find_method(loop.method).result)


def named(held: object, at: str = "") -> dict[str, str]:
    """Dotted key -> folder below runs/ in plain values."""
    if isinstance(held, str):
        return {at: held} if held.startswith("runs/") else {}
    parts = held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list) else ()
    return {key: path for name, part in parts for key, path in named(part, f"{at}.{name}".strip(".")).items()}


@pytest.fixture(scope="module")
def makers() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in FILES:
        found.setdefault(written(file), []).append(file)
    return found


def test_no_two_recipes_that_are_begun_from_write_the_same_folder(makers: dict[str, list[Path]]) -> None:
    begun_from = {path for file in FILES for path in named(plain(load_recipe(file))).values()}
    assert {path: makers[path] for path in begun_from if len(makers.get(path, ())) > 1} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RECIPES).with_suffix("")))
def test_a_recipe_begins_with_what_one_beside_it_writes(file: Path, makers: dict[str, list[Path]]) -> None:
    recipe = load_recipe(file)
    for key, path in named(plain(recipe)).items():
        assert path in makers, f"{key}: no recipe writes {path}"
        (maker,) = makers[path]
        assert maker.parent == file.parent, f"{key}: {path} is what {maker.relative_to(RECIPES)} writes"
        if not key.startswith("wam.config."):
            assert load_recipe(maker).wam.family == recipe.wam.family, f"{key}: {maker.relative_to(RECIPES)}"
