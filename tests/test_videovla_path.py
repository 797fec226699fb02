# SPDX-License-Identifier: Apache-2.0
"""From a released CogVideoX checkpoint and a robot's raw episodes to a served student, in their layouts at a tiny size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import TINY_NETWORK, tiny_cogvideox

pytest.importorskip("av")
from raw_sets import CAMERAS, write_v2

from flashwam import pipeline
from flashwam.cli import main
from flashwam.commands.describe import describe
from flashwam.evaluation.local import evaluate
from flashwam.evaluation.policy import load_policy
from flashwam.evaluation.recordings import evaluate_recordings
from flashwam.evaluation.served_recordings import evaluate_served_recordings
from flashwam.recipe.load import load_recipe
from flashwam.serve.model import load_served
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession
from flashwam.sim.local_policy import LocalPolicy
from flashwam.wam.cogvideox.codec import CogVideoXCodec

PROMPT = "fold"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cogvideox(tmp_path_factory.mktemp("path") / "base")


def settings(base: Path, data: Path) -> list[str]:
    """Three latent frames of 32 pixels: nine pictures, of which the model draws eight actions and acts out four."""
    values = {
        "data.root": data,
        "data.cameras": f"[{CAMERAS[0]}]",
        "data.camera_size": "[32,32]",
        "data.window_frames": 3,
        "data.processes": 1,
        "wam.pretrained": base,
        "wam.config.latent_size": "[4,4]",
        "wam.config.chunk_frames": 3,
        "wam.config.action_tokens": 6,
        "wam.config.execute_frames": 1,
        "wam.config.gradient_checkpointing": "false",
        "train.steps": 2,
        "train.batch_size": 2,
        "train.accumulation": 1,
        "train.precision": "no",
        "train.strategy": "single",
        "distill.steps": 2,
        "distill.batch_size": 2,
        "distill.accumulation": 1,
        "distill.precision": "no",
        "distill.strategy": "single",
        "distill.shard_teacher": "false",
        "evaluate.tasks": "[button-press]",
        **{f"wam.config.{key}": value for key, value in TINY_NETWORK.items()},
        **dict.fromkeys(("wam.config.sample_height", "wam.config.sample_width"), 4),
        "wam.config.sample_frames": 9,
    }
    return [f"{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def data(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("episodes")
    write_v2(root / "raw" / "towels")
    arguments = ["convert", str(root / "raw"), str(root / "data"), "--recipe", "videovla/robot/teacher"]
    assert main([*arguments, *settings(base, root / "data")]) == 0
    assert main(["check", "videovla/robot/teacher", *settings(base, root / "data")]) == 0
    norm = json.loads((root / "data" / "action_norm.json").read_text())
    assert (norm["q01"][6], norm["q99"][6], norm["clip"]) == (-1, 1, 1)
    return root / "data"


@pytest.fixture(scope="module")
def student(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    teacher = pipeline.train(load_recipe("videovla/robot/teacher", settings(base, data)), run_dir=runs / "teacher")
    recipe = load_recipe("videovla/robot/teacher", [*settings(base, data), f"wam.pretrained={teacher}"])
    return pipeline.distill(recipe, run_dir=runs / "student")


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), np.uint8)


def test_a_student_is_served_with_the_autoencoder_of_its_data(base: Path, student: Path) -> None:
    facts = describe(student)
    assert (facts["kind"], facts["family"]) == ("student", "cogvideox")
    assert json.loads((student / "codec.json").read_text())["cameras"]["resize"] == "cover"
    model = load_served(student.parent)
    assert model.metadata["cameras"] == [CAMERAS[0]]
    assert (model.metadata["keyframes_per_frame"], model.metadata["controls"]) == (1, 7)
    session = PolicySession(model)
    session.reset(PROMPT, seed=1)
    first = session.infer({CAMERAS[0]: pictures(1, 0)[0]})
    # Frame 0 of the first chunk is the observation; four controls up to the next latent frame are acted out.
    assert (first.shape, first.dtype) == ((7, 2, 4), np.float32)
    session.refresh([{CAMERAS[0]: pictures(1, 1)[0]}], first)
    second = session.infer()
    assert second.shape == (7, 1, 4)
    assert np.isfinite(second).all()
    moved = base.rename(base.parent / "moved")
    try:
        with pytest.raises(FileNotFoundError, match="expected vae/"):
            load_served(student)
        assert load_served(student, base=moved).metadata == {**model.metadata, "name": model.metadata["name"]}
    finally:
        moved.rename(base)


def test_a_served_student_is_judged_on_recordings_as_they_were_made(student: Path, data: Path, tmp_path: Path) -> None:
    """As its own teacher, it makes no error: the same pictures and seeds draw the same chunks."""
    with serving(load_served(student)) as server:
        told = {"data": data.parent / "raw", "windows": 3, "draws": 2, "out": tmp_path}
        (result,) = evaluate_served_recordings(server.url, teacher=server.url, **told)
    measures = result["recordings"]["measures"]
    assert measures["all_error_teacher"] == 0
    assert measures["all_teacher_spread"] > 0
    assert measures["all_error_recorded"] > 0


def test_a_student_is_driven_here_as_it_is_served(student: Path) -> None:
    """One episode in lock-step draws the very controls of a session from the same seed."""
    policy = load_policy(student.parent)
    assert isinstance(policy.codec, CogVideoXCodec)
    local = LocalPolicy(policy.wam, policy.samplers("1v/1a"), policy.codec)
    session = PolicySession(load_served(student))
    session.reset(PROMPT, seed=5)
    seen = pictures(3, 2)
    local.reset(PROMPT, seen[:1], seed=5)
    reply = session.infer({CAMERAS[0]: seen[0]})
    for step in range(2):
        controls = local.controls()
        np.testing.assert_allclose(controls[0], reply[:, -1].T, atol=1e-5)
        local.observe(seen[step + 1][None, None], controls)
        session.refresh([{CAMERAS[0]: seen[step + 1]}], reply)
        reply = session.infer()


def test_a_student_is_measured_by_its_recipes_tasks(student: Path, tmp_path: Path) -> None:
    (result,) = evaluate(student, nfe=("1v/2a",), closed_loop=False, out=tmp_path)
    assert result["asked"]["tasks"] == ["button-press"]
    assert (result["nfe"], result["open_loop"]) == ({"video": 1, "action": 2}, None)
    assert set(result["latency"]) == {"video+action_ms", "chunk_ms"}


def test_whole_segments_are_refused(base: Path, data: Path, tmp_path: Path) -> None:
    """As another autoencoder's conversion leaves them: then the observation would be sliced from a clip."""
    for path in data.rglob("*.pth"):
        kept = torch.load(path, weights_only=True)
        kept.pop("first_latent")
        target = tmp_path / "data" / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(kept, target)
    for path in data.rglob("*"):
        target = tmp_path / "data" / path.relative_to(data)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    recipe = load_recipe("videovla/robot/teacher", settings(base, tmp_path / "data"))
    with pytest.raises(ValueError, match="begins with a picture that is encoded alone"):
        pipeline.train(recipe, run_dir=tmp_path / "run")


def test_a_student_is_judged_on_recordings_by_the_first_control_of_each_clip_on(
    student: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (result,) = evaluate_recordings(student, windows=2, draws=2, out=tmp_path)
    numbers = result["recordings"]
    # A data set of so few episodes holds none out.
    assert not numbers["held_out"]
    assert "judged on episodes that it was trained on" in caplog.text
    assert numbers["measures"]["all_error_teacher"] > 0
    assert len(numbers["by_control"]["error_recorded"]) == 7
    with np.load(tmp_path / numbers["trajectories"]) as held:
        assert held["student"].shape[:2] == held["teacher"].shape[:2] == (2, 2)
        assert held["valid"].any(axis=1).all()
    assert result["open_loop"]["video_error_teacher"] > 0
    assert result["open_loop"]["video_decoded_error_expert"] > 0
    assert (tmp_path / result["strip"]).is_file()
