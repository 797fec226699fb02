# SPDX-License-Identifier: Apache-2.0
"""Recordings that a model is judged on: which data sets are taken, and what is said of them."""

import json
from types import SimpleNamespace

import pytest
from lerobot_sets import LIBERO, write_set

from flashwam.core.streams import StreamSpec
from flashwam.evaluation.policy import LoadedModel
from flashwam.evaluation.windows import recorded_windows
from flashwam.pipeline.norms import action_norm
from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe
from flashwam.run.model_info import ModelInfo

EPISODE = (33, [(0, 33, 0, 9)])
SHAPES = {"video": (4, 2, 7), "action": (30, 4, 1)}


def recipe_of(root, *settings, tasks="[long]"):
    own = [f"data.root={root}", f"data.tasks={tasks}", "data.window_frames=4", "data.held_out_every=5"]
    return load_recipe("libero/flash_wam", [*own, f"data.cameras=[{','.join(LIBERO)}]", *settings])


def model_of(recipe, run):
    """A run's student; of its network nothing but the shapes is asked."""
    folder = run / "student"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "action_norm.json").write_text(json.dumps(action_norm(recipe).to_dict()))
    streams = {name: StreamSpec.from_config(name, {"shift": 1.0}) for name in SHAPES}
    info = ModelInfo(kind="student", streams=streams, extra={"name": "student", "recipe": plain(recipe)})
    return LoadedModel(folder=folder, wam=SimpleNamespace(shapes=SHAPES, senses={}), info=info)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Ten episodes, two of which are held out; and two other data sets."""
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "mine", "libero", {"long": [EPISODE] * 10})
    write_set(root / "others", "libero", {"monday": [EPISODE] * 3, "tuesday": [EPISODE] * 2}, seed=1)
    return root


@pytest.fixture
def model(sets, tmp_path):
    return model_of(recipe_of(sets / "mine"), tmp_path / "run")


def test_of_a_folder_with_none_of_the_recipes_data_sets_all_are_taken_and_said(model, sets, caplog):
    found = recorded_windows(model, model.info.recipe, data=sets / "others")
    assert found.episodes == 5
    assert "none of the recipe's data sets (long): all of its own are taken (monday, tuesday)" in caplog.text


def test_data_sets_are_chosen_by_name(model, sets, caplog):
    for tasks, episodes in ((("monday",), 3), (("*day",), 5), (("tuesday", "monday"), 5)):
        assert recorded_windows(model, model.info.recipe, data=sets / "others", tasks=tasks).episodes == episodes
    assert caplog.text == ""
    with pytest.raises(FileNotFoundError, match=r"no data set 'long' below .*there are monday, tuesday; .*--tasks"):
        recorded_windows(model, model.info.recipe, data=sets / "others", tasks=("long",))


def test_some_of_the_recipes_data_sets_are_not_taken_for_all(sets, tmp_path):
    recipe = recipe_of(sets / "mine", tasks="[long,monday]")
    with pytest.raises(FileNotFoundError, match=r"no data set 'long' below .*there are monday, tuesday; .*--tasks"):
        recorded_windows(model_of(recipe, tmp_path), recipe, data=sets / "others")


def test_one_data_sets_own_folder_names_the_one_that_is_meant(model, sets):
    with pytest.raises(
        FileNotFoundError, match=f"is a part of {sets / 'others'}, .* choose monday among its data sets"
    ):
        recorded_windows(model, model.info.recipe, data=sets / "others" / "monday")
