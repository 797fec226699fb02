# SPDX-License-Identifier: Apache-2.0
"""Models of different autoencoders on one data folder: each is trained and judged on latents of its own."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import save_tiny_student, tiny_codec

from flashwam.data.episodes import video_path, write_episode, write_meta
from flashwam.data.latents import encode_latents, fingerprint
from flashwam.evaluation.cross import cross_table
from flashwam.evaluation.policy import load_policy
from flashwam.evaluation.windows import find_windows, recorded_windows
from flashwam.pipeline.data import dataset
from flashwam.recipe.load import load_recipe

ROWS, TASK, EPISODES = 9, "reach-wall", (0, 19)
MINE, OTHERS = tiny_codec(), tiny_codec(seed=9)


@pytest.fixture(scope="module")
def encoded_by_me(tmp_path_factory):
    """Two episodes, the second of which is held out, with my latents."""
    pytest.importorskip("av")
    root, rng = tmp_path_factory.mktemp("shared") / "data", np.random.default_rng(0)
    record(root, rng, EPISODES)
    encode_latents(root, MINE.autoencoder, progress=False)
    return root


def record(root, rng, episodes):
    for index in episodes:
        done = rng.uniform(-1, 1, (ROWS, 4))
        write_episode(
            root / TASK,
            index,
            columns={"action": done, "executed_action": done, "observation.state": done},
            frames=rng.integers(0, 255, (ROWS, 64, 64, 3), dtype=np.uint8),
            record={
                "tasks": ["reach"],
                "action_config": [{"start_frame": 0, "end_frame": ROWS, "action_text": "reach"}],
                "way": index % 2,
            },
            fps=80,
        )
    write_meta(root / TASK, fps=80, extra={"render_every": 4})


@pytest.fixture
def root(encoded_by_me, tmp_path):
    """A copy that another model's training has encoded anew."""
    shutil.copytree(encoded_by_me, tmp_path / "data")
    assert encode_latents(tmp_path / "data", OTHERS.autoencoder, progress=False) == 2
    return tmp_path / "data"


def recipe(root):
    return load_recipe("metaworld/teacher", [f"data.root={root}", f"data.tasks=[{TASK}]", "data.window_frames=2"])


def policy(folder, root, *, seed=0):
    """A student whose data lie at `root`."""
    save_tiny_student(folder)
    tiny_codec(seed=seed).save(folder)
    path = folder / "flashwam.json"
    data = {"root": str(root), "tasks": [TASK], "window_frames": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": {"data": data}}))
    return load_policy(folder)


def same(a, b):
    return (a.batch(range(4)).clean["video"] == b.batch(range(4)).clean["video"]).all()


def test_a_training_reads_its_own_latents_while_another_writes_others(encoded_by_me, root, caplog):
    with caplog.at_level(logging.WARNING):
        source = dataset(recipe(root), codec=MINE)
    assert source.autoencoders == {fingerprint(MINE.autoencoder)}
    assert same(source, dataset(recipe(encoded_by_me), codec=MINE))
    assert source.fingerprint() == dataset(recipe(encoded_by_me), codec=MINE).fingerprint()
    assert [record.message for record in caplog.records if "another autoencoder" in record.message] != []
    others = dataset(recipe(root), codec=OTHERS)
    assert not same(source, others)
    assert others.autoencoders == {fingerprint(OTHERS.autoencoder)}


def test_latents_of_an_unknown_autoencoder_are_taken_as_they_are(root, monkeypatch):
    others = dataset(recipe(root), codec=OTHERS)
    import flashwam.data.own_latents as module

    read = module.read_latents
    monkeypatch.setattr(module, "read_latents", lambda path: replace(read(path), autoencoder=None))
    unknown = dataset(recipe(root), codec=MINE)
    assert same(unknown, others)
    assert unknown.autoencoders == {None}


def test_held_out_windows_stay_the_same_whoever_encoded_last(encoded_by_me, root, tmp_path):
    before, after = (policy(tmp_path / name, place) for name, place in (("a", encoded_by_me), ("b", root)))
    assert same(before.held_out(), after.held_out())
    recorded = (recorded_windows(each, each.info.recipe).source for each in (before, after))
    assert same(*recorded)
    judged = (
        find_windows(
            recipe(place).data, MINE.actions, before.wam, split="val", held_out=True, autoencoder=MINE.autoencoder
        ).source
        for place in (encoded_by_me, root)
    )
    assert same(*judged)


def test_without_pictures_anothers_latents_are_refused(root):
    for index in EPISODES:
        video_path(root / TASK, index).unlink()
    with pytest.raises(FileNotFoundError, match=r"latents of another autoencoder.*episode_000000\.mp4.* is missing"):
        dataset(recipe(root), codec=MINE)


def test_models_of_different_autoencoders_are_not_crossed(root, tmp_path):
    sources = {"a": (policy(tmp_path / "a", root), "1v/1a"), "b": (policy(tmp_path / "b", root, seed=9), "1v/1a")}
    with pytest.raises(ValueError, match=r"different autoencoders.*a .*b "):
        cross_table(sources, out=tmp_path / "out")


def test_a_cross_table_is_of_the_models_own_latents(encoded_by_me, root, tmp_path):
    tables = [
        cross_table({n: (policy(tmp_path / name, place), n) for n in ("1v/1a", "1v/2a")}, out=tmp_path / name, draws=1)
        for name, place in (("a", encoded_by_me), ("b", root))
    ]
    assert tables[0] == tables[1]


def test_more_episodes_than_the_recipe_asks_for_are_said(root, caplog):
    asked = recipe(root)
    asked = replace(asked, data=replace(asked.data, multimodal_episodes=1))
    dataset(asked, codec=MINE)
    assert "the recipe asks for" not in caplog.text
    record(root, np.random.default_rng(1), (*EPISODES, 1))
    encode_latents(root, MINE.autoencoder, progress=False)
    dataset(asked, codec=MINE)
    assert (
        "holds 2 training episodes of reach-wall, and the recipe asks for 1: it learns from all of them" in caplog.text
    )
