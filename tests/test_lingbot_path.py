# SPDX-License-Identifier: Apache-2.0
"""From a released checkpoint and a released data set to a served student, in their own layouts at a tiny size."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lerobot_sets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_released import RELEASED, save_released

from flashwam import pipeline
from flashwam.cli import main
from flashwam.commands.describe import describe
from flashwam.core.batch import Batch
from flashwam.data.lerobot import SegmentDataset
from flashwam.distillation.stopping import Stopped
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.serve.model import load_served
from flashwam.serve.session import PolicySession
from flashwam.student import load_wam

PROMPT = "open the drawer"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A released checkpoint in bfloat16, with its prompts embedded elsewhere."""
    return save_released(tmp_path / "base", (PROMPT, ""), width=8, tokens=5, dtype=torch.float32)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RoboTwin segments with latents of 48 channels: a head camera of 64 x 96 pixels and two of half its size."""
    monkeypatch.setattr(lerobot_sets, "CHANNELS", 48)
    monkeypatch.setattr(lerobot_sets, "TEXT", (5, 12))
    lerobot_sets.write_set(tmp_path / "set", "robotwin", {"clean/a": [(130, [(0, 130, 0, 4)]) for _ in range(3)]})
    return tmp_path / "set"


def recipe_of(base: Path, data: Path) -> Recipe:
    settings = {
        "data.root": data,
        "data.tasks": "[clean]",
        "data.window_frames": 4,
        "data.camera_size": "[64,96]",
        "wam.pretrained": base,
        "wam.config.latent_size": "[6,6]",
        "wam.config.attention": "sdpa",
        "distill.steps": 2,
        "distill.batch_size": 2,
        "distill.accumulation": 1,
        "distill.precision": "no",
        "distill.strategy": "single",
        **{f"wam.config.{key}": value for key, value in RELEASED.items()},
    }
    return load_recipe("robotwin/flash_wam", [f"{key}={value}" for key, value in settings.items()])


def test_released_weights_and_data_become_a_served_student(base: Path, data: Path, tmp_path: Path) -> None:
    student = pipeline.distill(recipe_of(base, data), run_dir=tmp_path / "run")

    facts = describe(student)
    assert (facts["kind"], facts["dtype"], facts["teacher"]) == ("student", "F32", str(base))
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(base / name), load_file(student / name)
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    assert not torch.equal(before["blocks.0.attn1.to_q.weight"].float(), after["blocks.0.attn1.to_q.weight"])
    assert "distilled from" in (student / "README.md").read_text()

    model = load_served(tmp_path / "run")
    assert model.metadata["cameras"] == list(lerobot_sets.ROBOTWIN)
    assert model.metadata["nfe"] == {"video": 1, "action": 1}
    session, rng = PolicySession(model), np.random.default_rng(0)
    session.reset(PROMPT, seed=1)

    def seen(count: int) -> list[dict[str, np.ndarray]]:
        return [
            {key: rng.integers(0, 256, (64, 96, 3), np.uint8) for key in lerobot_sets.ROBOTWIN} for _ in range(count)
        ]

    first = seen(1)[0]
    for count in (4, 8):
        controls = session.infer(first)
        assert (controls.shape, controls.dtype) == ((16, 2, 16), np.float32)
        assert np.isfinite(controls).all()
        session.refresh(seen(count), controls)


def test_a_student_is_judged_on_the_episodes_that_nobody_trained_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By commands alone: no simulator knows these tasks."""
    monkeypatch.setattr(lerobot_sets, "CHANNELS", 48)
    monkeypatch.setattr(lerobot_sets, "TEXT", (5, 12))
    episodes = [(130, [(0, 130, 0, 4)]) for _ in range(20)]
    data, other, run = tmp_path / "set", tmp_path / "other", tmp_path / "run"
    lerobot_sets.write_set(data, "robotwin", {"clean/a": episodes})
    lerobot_sets.write_set(other, "robotwin", {"clean/b": episodes[:2]}, seed=1)
    pipeline.distill(recipe_of(base, data), run_dir=run)
    assert main(["evaluate", str(run), "--nfe", "1v/1a", "--windows", "2", "--draws", "2", "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    numbers = result["recordings"]
    assert (numbers["held_out"], numbers["episodes"], numbers["windows"]) == (True, 1, 2)
    assert (numbers["names"][0], numbers["units"][0], len(numbers["by_control"]["error_teacher"])) == (
        "left x",
        "mm",
        14,
    )
    assert 0 < numbers["measures"]["all_error_teacher"] < numbers["measures"]["all_error_recorded"]
    assert result["open_loop"]["video_error_teacher"] > 0
    assert (run / "evaluations" / "recordings" / result["strip"]).is_file()

    # Its teacher is its own reference, and of other recordings nobody knows.
    own = ["--recipe", str(run), "--windows", "1", "--draws", "2", "--nfe", "full"]
    monkeypatch.setattr("flashwam.evaluation.policy.load_wam", _as_a_teacher())
    assert main(["evaluate", str(run), "--data", str(other), *own, "--out", str(tmp_path / "own"), "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["recordings"]["held_out"], result["recordings"]["episodes"]) == (None, 2)
    assert result["recordings"]["measures"]["all_error_teacher"] == 0
    assert result["asked"]["recordings"]["data"] == str(other)

    assert main(["compare", str(run), "--out", str(tmp_path / "page")]) == 0
    told = capsys.readouterr().out
    assert "to teacher" in told
    assert "robotwin_flash_wam 1v/1a" in told
    page = (tmp_path / "page" / "compare.html").read_text()
    for text in (
        "On recorded episodes",
        "2 windows (1 different) of 1 held-out episodes, 2 draws each",
        "left turn x, deg",
    ):
        assert text in page
    assert page.count("data:image/png;base64,") == 3


def _as_a_teacher() -> Callable[..., Any]:
    def load(folder: Path, **options: Any) -> Any:
        model, info = load_wam(folder, **options)
        return model, replace(info, kind="teacher", extra={**info.extra, "teacher": None})

    return load


def _scaled(path: Path) -> None:
    save_file({name: value * 1.3 for name, value in load_file(path).items()}, path)


def _negated(path: Path) -> None:
    table = pq.read_table(path)
    rows = pa.array([[-x for x in row] for row in table["action"].to_pylist()], type=table["action"].type)
    pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", rows), path)


def _encoded_anew(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    torch.save({**content, "latent": content["latent"] + 1}, path)


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "teacher": ("transformer/diffusion_pytorch_model.safetensors", _scaled),
    "autoencoder": ("vae/diffusion_pytorch_model.safetensors", _scaled),
    "data": ("clean/a/data/chunk-000/episode_000001.parquet", _negated),
    "data ": ("clean/a/latents/chunk-000/observation.images.cam_high/episode_000002_0_130.pth", _encoded_anew),
}


def test_a_run_goes_on_with_what_it_began_with_alone(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    whole = load_file(pipeline.distill(recipe_of(base, data), run_dir=tmp_path / "whole") / WEIGHTS)
    read, asked = SegmentDataset.batch, []

    def signalled(*arguments: Any) -> Batch:
        if not asked:
            os.kill(os.getpid(), signal.SIGTERM)
        asked.append(arguments)
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentDataset, "batch", signalled)
        with pytest.raises(Stopped, match="stopped after step 1"):
            pipeline.distill(recipe_of(base, data), run_dir=run)
    for what, (name, change) in CHANGES.items():
        path = next(folder / name for folder in (base, data) if (folder / name).is_file())
        kept = path.read_bytes()
        change(path)
        with pytest.raises(ValueError, match=rf"begun with other inputs.* changed since: {what.strip()} \("):
            pipeline.distill(recipe_of(base, data), run_dir=run)
        # A folder in the result's place is no result.
        (run / "student").mkdir()
        with pytest.raises(ValueError, match="begun with other inputs"):
            pipeline.distill(recipe_of(base, data), run_dir=run)
        (run / "student").rmdir()
        path.write_bytes(kept)
    noted = (run / "inputs.json").rename(tmp_path / "noted")
    with pytest.raises(ValueError, match=r"inputs\.json is missing or damaged.*--accept-changed-inputs"):
        pipeline.distill(recipe_of(base, data), run_dir=run)
    noted.rename(run / "inputs.json")
    # The same content elsewhere is the same.
    base, data = (Path(shutil.move(folder, folder.with_name("moved_" + folder.name))) for folder in (base, data))
    shutil.copytree(run, tmp_path / "other")
    student = load_file(pipeline.distill(recipe_of(base, data), run_dir=run) / WEIGHTS)
    assert all(torch.equal(value, student[name]) for name, value in whole.items())

    _scaled(base / WEIGHTS)
    accepted = pipeline.distill(recipe_of(base, data), run_dir=tmp_path / "other", accept_changed_inputs=True)
    for path in (accepted / "flashwam.json", tmp_path / "other/provenance.json"):
        (change,) = json.loads(path.read_text())["accepted_changes"]
        assert change["changed"] == ["teacher (wam.pretrained)"]
