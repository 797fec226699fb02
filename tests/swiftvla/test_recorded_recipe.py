# SPDX-License-Identifier: Apache-2.0
"""SwiftVLA by recipe on recorded episodes: convert, train, judge, distil; how well it acts does not matter here."""

import json

import pytest
import torch
from raw_sets import CAMERAS, state
from recorded_sets import tiny, write_recordings

from flashwam import pipeline
from flashwam.data.raw import list_episodes
from flashwam.data.raw_windows import RawWindows
from flashwam.distillation.draws import Draws
from flashwam.distillation.setup import Setup
from flashwam.evaluation.recordings import evaluate_recordings
from flashwam.pipeline.ready import method_of, samples
from flashwam.pipeline.sources import convert_raw, segment_dataset
from flashwam.serve.model import load_served
from flashwam.student import load_wam
from flashwam.swiftvla.evaluation import load_with_auxiliary
from flashwam.swiftvla.smolvla import SmolVLA
from flashwam.swiftvla.source import PrivilegedSource
from flashwam.wam import family


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("by_recipe")
    write_recordings(root)
    convert_raw(tiny(root), root / "raw", root / "data", progress=False)
    return root


@pytest.fixture(autouse=True)
def _kept(converted, monkeypatch):
    monkeypatch.setenv("FLASHWAM_CACHE", str(converted / "cache"))


@pytest.fixture(scope="module")
def trained(converted):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FLASHWAM_CACHE", str(converted / "cache"))
        judge = {"every": 4, "windows": 2, "draws": 2, "nfe": "1v/2a"}
        return pipeline.train(tiny(converted, **{"train.judge": judge}), run_dir=converted / "run")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_both_stages_learn_from_the_recordings(converted, trained):
    before = {path: path.stat().st_mtime_ns for path in (converted / "data").rglob("*")}
    told = {line["step"]: line for line in lines(converted / "run") if "loss" in line}
    # start_step 2: first the actions alone, then everything.
    assert "trajectory" not in told[2]
    assert told[2]["masked/auxiliary"] == 1
    assert {"reconstruction/auxiliary", "reconstruction/primary", "trajectory"} <= set(told[3])
    model, info = load_wam(trained)
    assert (type(model), info.kind) == (SmolVLA, "teacher")
    assert model.senses == {"state": 8}
    assert model.encoder.tokens == 2 * 4
    assert not [key for key in model.state_dict() if key.startswith(("show", "reconstruct", "trajectory"))]
    # What is made of the data lies beside the cache's other files; the data themselves are only read.
    assert list((converted / "cache" / "auxiliary_tokens").rglob("*.safetensors"))
    assert not [path for path in before if path.name in ("targets", "geometry", ".lock")]


def test_it_is_judged_and_evaluated_on_held_out_episodes(converted, trained, tmp_path):
    judged = [line for line in lines(converted / "run") if "judged/all_error_recorded" in line]
    assert [line["step"] for line in judged] == [0, 4]
    (result,) = evaluate_recordings(trained, nfe=("1v/2a",), windows=2, draws=2, out=tmp_path)
    assert result["recordings"]["held_out"]
    assert result["recordings"]["episodes"] == 1
    assert result["recordings"]["measures"]["all_error_recorded"] > 0
    assert set(result["parameters"]) == {"encoder", "trunk", "expert", "fusion tokens", "projections"}
    with pytest.raises(ValueError, match="no simulator"):
        load_with_auxiliary(trained)


def test_a_masked_policy_is_the_stripped_one_on_recorded_windows(converted):
    recipe = tiny(converted)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family(recipe.wam.family).create(**recipe.wam.config)
    method = method_of(recipe, recipe.train, model, None)
    windows = method.source(samples(recipe, None, model), Setup.of(recipe, recipe.train))
    batch = method.seen_by_model(windows.batch([0, 1, 2]))
    assert batch.history["state"].shape == (3, 8, 4, 1, 1)
    full = method.roles.model.eval()
    noisy, sigma = {"action": torch.randn_like(batch.clean["action"])}, {"action": torch.full((3, 4), 0.5)}
    context = {"text": batch.text, "auxiliary": batch.extra["auxiliary"]}
    asked = (noisy, sigma, batch.history)
    with torch.no_grad():
        masked = full.velocity(*asked, {**context, "valid": {"auxiliary": torch.zeros(3, dtype=torch.bool)}})
        shown = full.velocity(*asked, context)
        stripped = full.strip().velocity(*asked, {"text": batch.text})
    torch.testing.assert_close(masked["action"], stripped["action"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(shown["action"], stripped["action"], atol=1e-4)
    out = method.loss(windows.batch([0, 1]), Draws(seed=0, step=2, positions=[0, 1], device=torch.device("cpu")))
    assert torch.isfinite(out.loss)


class Stopped(Exception):
    pass


def test_a_resumed_run_ends_with_the_same_weights(converted, tmp_path, monkeypatch):
    recipe = tiny(converted, **{"train.options.start_step": 0})
    whole = load_wam(pipeline.train(recipe, run_dir=tmp_path / "whole"))[0].state_dict()
    batch = PrivilegedSource.batch

    def stopping(self, indices):
        if indices[0] >= 6:
            raise Stopped
        return batch(self, indices)

    monkeypatch.setattr(PrivilegedSource, "batch", stopping)
    with pytest.raises(Stopped):
        pipeline.train(recipe, run_dir=tmp_path / "parts")
    monkeypatch.setattr(PrivilegedSource, "batch", batch)
    parts = load_wam(pipeline.train(recipe, run_dir=tmp_path / "parts"))[0].state_dict()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_it_is_distilled_to_one_step(converted, trained, tmp_path):
    changes = {"wam.pretrained": trained, "distill.steps": 2, "distill.batch_size": 2, "distill.precision": "no"}
    student = pipeline.distill(tiny(converted, "swiftvla/libero/one_step", **changes), run_dir=converted / "one_step")
    assert load_wam(student)[1].kind == "student"
    (result,) = evaluate_recordings(student, nfe=("1v/1a",), windows=2, draws=2, out=tmp_path)
    assert result["nfe"] == {"video": 1, "action": 1}
    assert result["recordings"]["measures"]["all_error_teacher"] > 0


def test_the_baseline_is_told_the_state_too_and_a_second_run_may_begin_with_it(converted, tmp_path):
    first = pipeline.train(tiny(converted, "swiftvla/libero/2d", **{"train.steps": 2}), run_dir=tmp_path / "first")
    assert load_wam(first)[0].fusion is None
    assert "masked/primary" in lines(tmp_path / "first")[-1]
    changes = {"wam.pretrained": first, "train.options.start_step": 0, "train.steps": 2, "train.lr": 1e-12}
    second = pipeline.train(tiny(converted, **changes), run_dir=tmp_path / "second")
    before, after = (load_wam(folder)[0].state_dict() for folder in (first, second))
    assert set(after) - set(before) == {"fusion"}
    assert all(torch.allclose(after[key], before[key], atol=1e-6) for key in before)


def test_it_is_served_with_the_cameras_and_the_state_that_it_learnt_from(converted, trained, tmp_path):
    pytest.importorskip("websockets")
    from flashwam.evaluation.served_recordings import evaluate_served_recordings
    from flashwam.serve.server import serving

    served = load_served(trained, nfe="1v/2a")
    assert served.metadata["cameras"] == list(CAMERAS)
    assert served.metadata["senses"] == {"state": 8}
    window = RawWindows(converted / "raw", cameras=CAMERAS, least=6, senses=("state",)).window(0)
    seen = window.pictures([0, 2])
    assert [row["observation.state"].tolist() for row in seen] == [
        state(window.episode.index)[window.first + r].tolist() for r in (0, 2)
    ]
    # What a robot sends becomes what the policy was trained on.
    windows = segment_dataset(tiny(converted), split="all")
    (number,) = [n for n, s in enumerate(windows.segments) if (s.episode, s.start) == (0, 0)]
    clips = {
        camera: episode.clips[camera]
        for episode in list_episodes(converted / "raw" / "towels", cameras=CAMERAS)
        if episode.index == 0
        for camera in CAMERAS
    }
    shown = [{camera: clip.read([row], fps=10)[0] for camera, clip in clips.items()} for row in (0, 2, 4)]
    latents = served.codec().encode(shown)
    torch.testing.assert_close(latents[0], windows.segment(number).video[:, :3], atol=1e-2, rtol=0)
    with serving(served) as server:
        (result,) = evaluate_served_recordings(server.url, data=converted / "raw", windows=2, draws=2, out=tmp_path)
    assert result["recordings"]["measures"]["all_error_recorded"] > 0


def test_another_robot_s_state_and_hand_are_refused_in_words(converted, tmp_path):
    def refused(told, **changes):
        with pytest.raises(ValueError, match=told):
            pipeline.train(tiny(converted, **changes), run_dir=tmp_path / str(len(list(tmp_path.iterdir()))))

    refused("the data has 8 numbers .* the model is told 7; .*state_dim", **{"wam.config.state_dim": 7})
    wrong = {"train.options.path": {"column": "observation.hand", "numbers": [0, 1, 2]}}
    refused(r"no column 'observation\.hand'.*columns: .*observation\.state.*train\.options\.path", **wrong)
    beyond = {"train.options.path": {"column": "action", "numbers": [0, 1, 7]}}
    refused(r"'action' has 7 numbers a row.*\[0, 1, 7\]", **beyond)
    refused("coordinates must be 2", **{"train.options.path": {"numbers": [0, 1]}})
    refused(r"auxiliary must say .*tokens: 16", **{"train.options.provider.side": 4})


def test_a_model_of_fresh_weights_needs_something_to_encode_with(converted, tmp_path):
    with pytest.raises(ValueError, match=r"nothing to encode with: .*autoencoder\.kind to pixels"):
        convert_raw(tiny(converted, **{"autoencoder.kind": "trained"}), converted / "raw", tmp_path, progress=False)
