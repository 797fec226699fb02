# SPDX-License-Identifier: Apache-2.0
"""From raw episodes by way of recipe and command line to a trained model, and a resumed run's samples."""

import hashlib
import json

import numpy as np
import pytest
import torch
from lerobot_sets import ROBOTWIN, write_set

from flashwam import pipeline
from flashwam.cli import main
from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.controls import ControlSpace
from flashwam.distillation.methods import make_method
from flashwam.distillation.trainer import train
from flashwam.pipeline.norms import action_norm
from flashwam.pipeline.sources import segment_dataset
from flashwam.recipe.load import load_recipe
from flashwam.student import load_wam
from flashwam.wam.lingbot_va import LingBotVA

TINY = {
    "window_chunks": 6,
    "patch_size": [1, 2, 2],
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 1,
    "action_dim": 30,
    "chunk_frames": 2,
}


def test_shipped_recipes_carry_the_published_data_settings():
    recipes = [load_recipe(f"{name}/flash_wam") for name in ("libero", "robotwin")]
    libero, robotwin = (one.data for one in recipes)
    for one, low, high in zip(recipes, (-0.9375, -0.08783501386642456), (0.9375, 0.14745532035827624), strict=True):
        norm = action_norm(one)
        assert (norm.channels, norm.q01[2], norm.q99[2], norm.clip) == (30, low, high, 1.5)
        # An unused channel has no range, a used one has.
        assert all((norm.q99[c] > norm.q01[c]) == (c in norm.used) for c in range(30))
    assert (libero.layout, libero.stride, libero.used_channels, libero.relative_poses) == (
        "width",
        1,
        tuple(range(7)),
        False,
    )
    assert (robotwin.layout, robotwin.stride, robotwin.relative_poses) == ("tshape", 4, True)
    assert robotwin.used_channels == (*range(7), 28, *range(7, 14), 29)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.cameras=[a,b]", ["data.cameras", "3 different keys"]),
        ("data.cameras=[a,b,a]", ["data.cameras", "3 different keys"]),
        ("data.layout=tshap", ["did you mean 'tshape'"]),
        ("data.used_channels=[0,30]", ["data.used_channels", "below 30"]),
        ("data.q01=[0]", ["data.q01", "30 numbers"]),
        ("data.q99=null", ["data.q01", "the other quantile"]),
        ("data.text_dropout=2", ["data.text_dropout", "[0, 1]"]),
        ("data.camera_size=[0,3]", ["data.camera_size", "positive"]),
        ("data.action_clip=0", ["data.action_clip", "positive or null"]),
        ("data.stride=0", ["data.stride", "at least 1"]),
        ("data.first_actions=none", ["raw_zero, zero"]),
    ],
)
def test_wrong_data_settings_are_refused_with_their_remedy(override, told):
    with pytest.raises(ValueError) as caught:
        load_recipe("robotwin/flash_wam", [override])
    for part in told:
        assert part in str(caught.value)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A RoboTwin set with nine segments, two of whose files are damaged."""
    root = tmp_path_factory.mktemp("released")
    write_set(root, "robotwin", {"clean/a": [(130, [(0, 130, 0, 3 + i % 4)]) for i in range(9)]})
    for index in (3, 6):
        path = root / "clean/a/latents/chunk-000" / ROBOTWIN[1] / f"episode_{index:06d}_0_130.pth"
        path.write_bytes(path.read_bytes()[:-99])
    return root


def recipe(root, **train_section):
    """The RoboTwin recipe at a size that takes seconds."""
    values = {
        "data.root": root,
        "data.tasks": "[clean]",
        "data.window_frames": 4,
        "data.skip_bad": "true",
        "data.text_dropout": 0.3,
        "train.steps": 8,
        "train.batch_size": 2,
        "train.accumulation": 2,
        "train.precision": "no",
        "train.strategy": "single",
        "train.save_every": 2,
        "train.log_every": 1,
        **train_section,
    }
    return load_recipe("robotwin/flash_wam", [f"{key}={value}" for key, value in values.items()])


class Interrupted(Exception):
    pass


class Recorded:
    """Notes every batch that a source gives, and stops the run at a draw."""

    def __init__(self, source, stop):
        self.source, self.stop, self.given = source, stop, []

    def batch(self, indices):
        if indices[0] >= self.stop:
            raise Interrupted
        batch = self.source.batch(indices)
        digest = hashlib.sha256()
        for part in (*batch.clean.values(), *batch.mask.values(), batch.text, batch.index):
            digest.update(part.contiguous().numpy().tobytes())
        self.given.append((tuple(indices), digest.hexdigest()))
        return batch


def run(one, folder, *, stop=10**9):
    """Trains; returns the batches given and the result's weights, None if interrupted."""
    source = Recorded(segment_dataset(one), stop)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = {**TINY, "latent_size": (6, 6), "actions_per_frame": 16}
        model = LingBotVA.create(**config, in_channels=4, out_channels=4, text_dim=6)
    method = make_method(one.train, one.streams, model)
    try:
        result = train(method, source, one.train, run_dir=folder, seed=one.seed)
    except Interrupted:
        return source.given, None
    return source.given, load_wam(result)[0].state_dict()


def test_a_resumed_run_sees_the_same_samples(released, tmp_path):
    """Also where files are skipped, though the resumed process has not met the bad ones yet."""
    one = recipe(released)
    whole, expected = run(one, tmp_path / "whole")
    assert [indices for indices, _ in whole] == [(i, i + 1) for i in range(0, 32, 2)]
    # Interrupted in step 5, in the midst of its accumulation; the last checkpoint is that of step 4.
    first, none = run(one, tmp_path / "parts", stop=22)
    second, weights = run(one, tmp_path / "parts")
    assert none is None
    assert first == whole[:11]
    assert second == whole[8:]
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_check_lists_the_bad_and_training_refuses_or_skips_them(released, capsys):
    arguments = ["robotwin/flash_wam", f"data.root={released}", "data.tasks=[clean]"]
    assert main(["check", *arguments]) == 1
    out = capsys.readouterr().out
    assert "9 below" in out
    assert "2 of them" in out
    assert out.count("bad: ") == 2
    assert all(f"episode_{index:06d}_0_130.pth: not a latent file" in out for index in (3, 6))
    strict = segment_dataset(recipe(released, **{"data.skip_bad": "false"}))
    with pytest.raises(ValueError, match=r"episode_00000[36]_0_130\.pth"):
        strict.batch(range(9))


def test_raw_episodes_become_latents_and_a_trained_model(tmp_path, capsys):
    pytest.importorskip("av")
    from raw_sets import CAMERAS, LENGTHS, actions, write_v3

    write_v3(tmp_path / "raw" / "towels")
    torch.manual_seed(0)
    autoencoder = FrameAutoencoder(latent_channels=3, width=16)
    autoencoder.std.fill_(2.0)
    autoencoder.save_pretrained(tmp_path / "checkpoint" / "vae")
    settings = {
        "data.root": tmp_path / "data",
        "data.tasks": "[towels]",
        "data.cameras": f"[{','.join(CAMERAS)}]",
        "data.layout": "width",
        "data.camera_size": "[32,48]",
        "data.stride": 2,
        "data.relative_poses": "false",
        "data.used_channels": "[0,1,2,3,4,5,28]",
        "data.q01": "null",
        "data.q99": "null",
        "data.processes": 1,
        "wam.pretrained": tmp_path / "checkpoint",
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    paths = [str(tmp_path / "raw"), str(tmp_path / "data")]
    assert main(["convert", *paths, "--recipe", "robotwin/flash_wam", *overrides]) == 0
    assert "8 files written, 0 kept, 3 episodes" in capsys.readouterr().out
    assert main(["convert", *paths, "--recipe", "robotwin/flash_wam", *overrides]) == 0
    assert "0 files written, 8 kept, 3 episodes" in capsys.readouterr().out
    assert main(["check", "robotwin/flash_wam", *overrides]) == 0

    norm = ActionNorm.from_dict(json.loads((tmp_path / "data" / "action_norm.json").read_text()))
    every = np.concatenate([actions(episode) for episode in range(len(LENGTHS))])
    low, high = np.quantile(every.astype(np.float64), [0.01, 0.99], axis=0)
    assert np.allclose(np.array(norm.q01)[[0, 1, 2, 3, 4, 5, 28]], low, atol=1e-6)
    assert np.allclose(np.array(norm.q99)[[0, 1, 2, 3, 4, 5, 28]], high, atol=1e-6)
    assert norm.used == (0, 1, 2, 3, 4, 5, 28)

    small = {
        "data.window_frames": 4,
        "wam.pretrained": "null",
        "wam.config.latent_size": "[4,12]",
        "wam.config.actions_per_frame": 2,
        "wam.config.in_channels": 3,
        "wam.config.out_channels": 3,
        "wam.config.text_dim": 32,
        "wam.config.attention": "sdpa",
        "train.steps": 2,
        "train.batch_size": 2,
        "train.accumulation": 1,
        "train.precision": "no",
        "train.strategy": "single",
        **{f"wam.config.{key}": value for key, value in TINY.items()},
    }
    overrides += [f"{key}={value}".replace(" ", "") for key, value in small.items()]
    teacher = pipeline.train(load_recipe("robotwin/flash_wam", overrides), run_dir=tmp_path / "run")
    assert ActionNorm.from_dict(json.loads((teacher / "action_norm.json").read_text())).q01 == norm.q01
    wrong = load_recipe("robotwin/flash_wam", [*overrides, "wam.config.latent_size=[4,6]"])
    with pytest.raises(ValueError, match=r"'video'.*\(3, 4, 12\).*\(3, 4, 6\)"):
        pipeline.train(wrong, run_dir=tmp_path / "wrong")


def test_a_trained_teachers_normalisation_is_kept(released, tmp_path):
    settings = {"wam.pretrained": tmp_path, "data.first_actions": "zero"}
    own = action_norm(recipe(released, **settings))
    teacher = ActionNorm(q01=(-2.0,) * 30, q99=(2.0,) * 30, used=own.used)
    (tmp_path / "action_norm.json").write_text(json.dumps(teacher.to_dict()))
    with pytest.raises(ValueError, match=r"action_norm\.json: the model was trained with another"):
        segment_dataset(recipe(released, **settings))
    silent = recipe(released, **settings, **{"data.q01": "null", "data.q99": "null"})
    assert segment_dataset(silent).space == ControlSpace(norm=teacher, relative=True, first="zero")
    (tmp_path / "action_norm.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"action_norm\.json"):
        segment_dataset(silent)
    with pytest.raises(FileNotFoundError, match=r"action_norm\.json is missing: set data.q01"):
        segment_dataset(recipe(released, **{"data.q01": "null", "data.q99": "null"}))
