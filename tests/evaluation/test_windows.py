# SPDX-License-Identifier: Apache-2.0
"""Recordings that a model is judged on: which data sets are taken, and what is said of them."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from lerobot_sets import LIBERO, write_set
from tiny_models import save_tiny_student, tiny_codec

from flashwam.core.scenes import HISTORY_SEED_BASE, demonstration_scene
from flashwam.core.streams import StreamSpec
from flashwam.data.episodes import write_episode, write_meta
from flashwam.data.latents import encode_latents
from flashwam.evaluation.policy import LoadedModel, load_model, load_policy
from flashwam.evaluation.windows import recorded_windows
from flashwam.pipeline.data import dataset
from flashwam.pipeline.norms import action_norm
from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe
from flashwam.run.inputs import DATA, check_inputs
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
    return LoadedModel(folder=folder, wam=SimpleNamespace(shapes=SHAPES, senses={}, text_shape=(None, None)), info=info)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Ten episodes, two of which are held out; and two other data sets."""
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "mine", "libero", {"long": [EPISODE] * 10})
    write_set(root / "others", "libero", {"monday": [EPISODE] * 3, "tuesday": [EPISODE] * 2}, seed=1)
    return root


@pytest.fixture
def model(sets, tmp_path):
    """Trained on `mine`, as its run notes."""
    recipe = recipe_of(sets / "mine")
    made = model_of(recipe, tmp_path / "run")
    check_inputs(tmp_path / "run", {DATA: dataset(recipe, codec=None).fingerprint()})
    return made


def told(model, **options):
    """Tells of the episodes taken whether they were held out, and how many they are."""
    found = recorded_windows(model, options.pop("recipe", model.info.recipe), **options)
    return found.held_out, found.episodes


def test_a_models_own_recordings_are_known_wherever_they_lie(model, sets, tmp_path):
    copy = shutil.copytree(sets / "mine", tmp_path / "copy")
    assert told(model) == told(model, data=copy) == told(model, data=copy, tasks=("lo*",)) == (True, 2)
    # Another recipe changes nothing of what was held out.
    assert told(model, recipe=recipe_of(copy, "data.held_out_every=2")) == (True, 2)
    gone = model_of(recipe_of(tmp_path / "gone"), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"gone: no such folder, .*give the folder where they lie now.*--data"):
        told(gone)
    assert told(gone, data=copy) == (True, 2)


def test_text_of_another_width_than_the_model_reads_is_refused(model, sets):
    model.wam.text_shape = (None, 16)
    with pytest.raises(ValueError, match="text: the data has 6 numbers a token, the model takes 16"):
        told(model)


def test_of_other_recordings_nobody_knows(model, sets, tmp_path):
    """Some of the model's own may be among them, under other names and numbers."""
    assert told(model, data=sets / "others") == (None, 5)
    some = shutil.copytree(sets / "mine", tmp_path / "some")
    path = some / "long" / "meta" / "episodes.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    assert told(model, data=some) == (None, 7)


@pytest.mark.parametrize("noted", ["nothing", "others", "also others"])
def test_of_recordings_in_their_place_that_the_run_does_not_note_nobody_knows(model, tmp_path, noted, caplog):
    path = model.run.inputs
    if noted == "nothing":
        path.unlink()
    elif noted == "others":
        path.write_text(json.dumps({"inputs": {DATA: "0" * 64}, "accepted": []}))
    else:
        kept = json.loads(path.read_text())
        path.write_text(json.dumps(kept | {"accepted": [{"time": "", "changed": [DATA]}]}))
    assert told(model) == (None, 2)
    assert "nobody knows whether the episodes below" in caplog.text


def test_where_none_were_held_out_the_model_was_trained_on_them_all(sets, tmp_path, caplog):
    recipe = recipe_of(sets / "mine", "data.held_out_every=null")
    made = model_of(recipe, tmp_path / "run")
    check_inputs(tmp_path / "run", {DATA: dataset(recipe, codec=None).fingerprint()})
    copy = shutil.copytree(sets / "mine", tmp_path / "copy")
    assert told(made) == told(made, data=copy) == (False, 10)
    assert "judged on episodes that it was trained on" in caplog.text


def test_of_another_tools_checkpoint_nobody_knows(model, sets):
    other = replace(model, info=replace(model.info, extra={}))
    assert told(other, recipe=recipe_of(sets / "mine")) == (None, 10)


def demonstrations(root, numbers, *, seed=0, task="reach-wall", scenes=None, frames=3):
    """Collected ones, of which scenes and numbers alone count here."""
    codec, rows = tiny_codec(), 4 * (frames - 1) + 1
    for number in numbers:
        scene = demonstration_scene(seed, number) + 3 if scenes is None else scenes[number]
        write_episode(
            root / task,
            number,
            columns={name: np.zeros((rows, 4), np.float32) for name in ("action", "executed_action")},
            frames=np.zeros((rows, 64, 64, 3), np.uint8),
            record={
                "tasks": ["reach"],
                "action_config": [{"start_frame": 0, "end_frame": rows, "action_text": "reach"}],
                "way": -1,
                "seed": scene,
            },
            fps=80,
        )
    write_meta(root / task, fps=80, extra={"render_every": 4, "task": task})
    encode_latents(root, codec.autoencoder, progress=False)
    return root


@pytest.fixture
def collector(tmp_path):
    """Trained on demonstrations of seed 0, of which nothing is noted and nothing is here, as of the shipped teacher."""
    settings = ["data.root=gone", "data.tasks=[reach-wall]", "data.window_frames=2", "data.seed=0"]
    recipe = load_recipe("metaworld/teacher", settings)
    info = {"name": "teacher", "recipe": plain(recipe)}
    folder = save_tiny_student(tmp_path / "run" / "student")
    loaded = load_model(folder)
    return replace(loaded, info=replace(loaded.info, extra=info))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        # The last of 20 was held out.
        ({"numbers": (0, 1, 19)}, (True, 1)),
        ({"numbers": (0, 1)}, (False, 2)),
        ({"numbers": (0, 1), "seed": 1}, (True, 2)),
        ({"numbers": (0, 1), "task": "faucet-turn"}, (True, 2)),
        # Numbered anew, a model's own, and of an unknown origin.
        ({"numbers": (0, 19), "scenes": {0: 10, 19: 20}}, (None, 2)),
        ({"numbers": (0,), "scenes": {0: HISTORY_SEED_BASE}}, (None, 1)),
        ({"numbers": (0,), "scenes": {0: None}}, (None, 1)),
    ],
)
def test_demonstrations_are_known_by_their_scenes_whoever_collected_them(collector, tmp_path, made, expected):
    pytest.importorskip("av")
    assert told(collector, data=demonstrations(tmp_path / "data", **made)) == expected


def test_of_a_folder_with_none_of_the_recipes_data_sets_all_are_taken_and_said(model, sets, caplog):
    found = recorded_windows(model, model.info.recipe, data=sets / "others")
    assert found.episodes == 5
    expected = "none of the recipe's data sets (long): taken are all of its own; --tasks chooses among monday, tuesday"
    assert expected in caplog.text


def test_data_sets_are_chosen_by_name(model, sets, caplog):
    for tasks, episodes in ((("monday",), 3), (("*day",), 5), (("tuesday", "monday"), 5)):
        assert recorded_windows(model, model.info.recipe, data=sets / "others", tasks=tasks).episodes == episodes
    assert caplog.text == ""
    with pytest.raises(FileNotFoundError, match=r"no data set 'long' below .*there are monday, tuesday; .*--tasks"):
        recorded_windows(model, model.info.recipe, data=sets / "others", tasks=("long",))


def test_of_a_folder_with_some_of_the_recipes_data_sets_these_are_taken_and_said(sets, tmp_path, caplog):
    recipe = recipe_of(sets / "mine", tasks="[long,monday]")
    assert told(model_of(recipe, tmp_path), data=sets / "others") == (None, 3)
    expected = (
        "has 1 of 2 of the recipe's data sets (long, monday): taken are monday; --tasks chooses among monday, tues"
    )
    assert expected in caplog.text


def test_one_data_sets_own_folder_names_the_one_that_is_meant(model, sets):
    with pytest.raises(
        FileNotFoundError, match=f"is a part of {sets / 'others'}, .* choose monday among its data sets"
    ):
        recorded_windows(model, model.info.recipe, data=sets / "others" / "monday")


@pytest.mark.parametrize(("every", "held"), [("5", {4, 19}), ("20", {19}), ("null", {19}), ("2", {1, 3, 19})])
def test_of_demonstrations_as_many_are_held_out_as_the_recipe_says(tmp_path, every, held):
    """By the training, by an evaluation on windows and by one that drives."""
    pytest.importorskip("av")
    numbers = (0, 1, 2, 3, 4, 19)
    root = demonstrations(tmp_path / "data", numbers)
    own = [f"data.root={root}", "data.tasks=[reach-wall]", "data.window_frames=2", f"data.held_out_every={every}"]
    recipe = load_recipe("metaworld/teacher", own)
    policy = load_policy(save_tiny_student(tmp_path / "run" / "student"))
    policy = replace(policy, info=replace(policy.info, extra={"name": "teacher", "recipe": plain(recipe)}))

    def seen(source):
        return {int(number) for number in source.episodes[:, 1]}

    assert seen(dataset(recipe, codec=policy.codec)) == {*numbers} - held
    found = recorded_windows(policy, recipe)
    assert (seen(found.source), found.held_out, found.episodes) == (held, True, len(held))
    assert seen(policy.held_out()) == held


def test_where_none_were_held_out_of_what_nobody_knows_nobody_says_that_it_was_trained_on(sets, tmp_path, caplog):
    made = model_of(recipe_of(sets / "mine", "data.held_out_every=null"), tmp_path / "run")
    assert told(made) == (None, 10)
    assert "was trained on, if these are those that it was made from, which nobody knows" in caplog.text
