# SPDX-License-Identifier: Apache-2.0
"""A model's own episodes beside a recipe's data: read by its codec, and refused in one sentence where they do not fit."""

import numpy as np
import pytest
from tiny_models import tiny_codec

from flashwam.data.episodes import write_episode, write_meta
from flashwam.data.latents import encode_latents
from flashwam.pipeline import distill
from flashwam.pipeline.data import read_histories
from flashwam.recipe.load import load_recipe

ROWS = 21


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Episodes of reach-wall by the tiny codec."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("own") / "pasts"
    rng = np.random.default_rng(0)
    done = rng.uniform(-1, 1, (ROWS, 4))
    write_episode(
        root / "reach-wall",
        0,
        columns={"action": done, "executed_action": done, "observation.state": done},
        frames=rng.integers(0, 255, (ROWS, 64, 64, 3), dtype=np.uint8),
        record={
            "tasks": ["reach"],
            "action_config": [{"start_frame": 0, "end_frame": ROWS, "action_text": "reach"}],
        },
        fps=80,
    )
    write_meta(root / "reach-wall", fps=80, extra={"render_every": 4})
    encode_latents(root, tiny_codec().autoencoder, progress=False)
    return root


def recipe(*settings):
    return load_recipe("metaworld/pairs", ["data.tasks=[reach-wall]", *settings])


def test_they_are_normalised_as_the_teacher_acts_and_tell_its_senses(folder):
    codec = tiny_codec(q99=(0.5, 0.5, 0.5, 0.5))
    own = read_histories(recipe(), folder, codec=codec, senses=("state",))
    assert own.longest == 6
    batch = own.standing(frames=4, drawn=2, starts=[0]).batch([0])
    episodes = read_histories(recipe(), folder, codec=tiny_codec()).standing(frames=4, drawn=2, starts=[0])
    assert not np.allclose(batch.history["action"], episodes.batch([0]).history["action"])
    assert batch.history["state"].shape == (1, 4, 4, 1, 1)


def test_those_of_other_tasks_are_refused(folder):
    with pytest.raises(ValueError, match=r"are of \['reach-wall'\], which are not among the recipe's tasks"):
        read_histories(recipe("data.tasks=[button-wall]"), folder, codec=tiny_codec())


def test_those_of_another_autoencoder_are_refused(folder):
    with pytest.raises(ValueError, match="are not by the autoencoder of"):
        read_histories(recipe(), folder, codec=tiny_codec(seed=1))


def test_those_beside_a_robots_data_are_refused(folder):
    with pytest.raises(ValueError, match="beside data that a simulator makes"):
        read_histories(recipe(), folder, codec=None)


def test_a_folder_that_is_not_there_is_named_before_anything_is_made(tmp_path):
    (tmp_path / "teacher").mkdir()
    asked = recipe(f"wam.pretrained={tmp_path / 'teacher'}", f"distill.options.histories={tmp_path / 'nothing'}")
    with pytest.raises(FileNotFoundError, match=r"distill\.options\.histories: .*nothing: no such folder\. Record one"):
        distill(asked, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
