# SPDX-License-Identifier: Apache-2.0
"""Models in the released layouts, of random weights and a tiny size, on recordings: by the commands that a reader types."""

import json
from pathlib import Path

import lerobot_sets
import pytest
import torch
from tiny_released import RELEASED, SHORT, save_released

from flashwam.cli import main

PROMPT = "part 0"
FRAMES = 8
"""Latent frames of a window: two chunks."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A released checkpoint with its prompts embedded elsewhere; nothing in it says how it is sampled."""
    return save_released(tmp_path / "base", (PROMPT, ""), tokens=5, dtype=torch.float32)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LIBERO's two cameras of 128 pixels, 20 episodes of nine latent frames: one is held out."""
    monkeypatch.setattr(lerobot_sets, "CHANNELS", 48)
    monkeypatch.setattr(lerobot_sets, "TEXT", (5, 12))
    monkeypatch.setattr(lerobot_sets, "SIZES", {"libero": [(8, 8), (8, 8)]})
    lerobot_sets.write_set(tmp_path / "set", "libero", {"monday": [(33, [(0, 33, 0, 9)])] * 20})
    return tmp_path / "set"


@pytest.fixture
def recipe(base: Path, data: Path, tmp_path: Path) -> Path:
    """As LIBERO's, of the size of what is here."""
    content = {
        "extends": "libero/flash_wam",
        "name": "tiny",
        "streams": {"video": {"teacher_steps": 2}, "action": {"teacher_steps": 2}},
        "data": {"root": str(data), "tasks": ["monday"], "window_frames": FRAMES},
        "wam": {"pretrained": str(base), "config": {**RELEASED, "attention": "sdpa"}},
        "distill": {"lora": {"rank": 2, "alpha": 2}, **SHORT},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(content))
    return path


def evaluated(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    """The result of `flashwam evaluate` on a window of two draws, on the CPU."""
    few = ["--windows", "1", "--draws", "2", "--device", "cpu", "--json", "-"]
    assert main(["evaluate", *map(str, words), *few]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    return result


def check_measures(result: dict, place: Path) -> None:
    """Errors of seven controls, of latents and of pictures, milliseconds of both stages, curves and a strip."""
    numbers, open_loop = result["recordings"], result["open_loop"]
    assert (numbers["windows"], numbers["draws"], len(numbers["names"])) == (1, 2, 7)
    for measure in ("error_teacher", "error_recorded", "teacher_error_recorded"):
        assert len(numbers["by_control"][measure]) == 7
        assert min(numbers["by_control"][measure]) > 0
    assert len(numbers["over_chunk"]) == 16
    for name in ("video_error_teacher", "video_decoded_error_teacher", "video_decoded_error_expert"):
        assert open_loop[name] > 0
    assert open_loop["video_decoded_sharpness_ratio"] > 0
    assert set(result["latency"]) == {"video_ms", "action_ms", "chunk_ms"}
    assert {place / numbers["trajectories"], place / result["strip"]} <= set(place.iterdir())


def test_a_released_checkpoint_is_judged_by_a_preset_and_a_recipe_of_the_data(
    base: Path, data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In fewer steps against its own draws in all of them, which the preset tells."""
    out = tmp_path / "out"
    words = [base, "--preset", "libero", "--recipe", recipe, "--data", data, "--nfe", "1v/2a", "--out", out]
    result = evaluated(capsys, *words)
    assert (result["kind"], result["nfe"]) == ("teacher", {"video": 1, "action": 2})
    assert result["guidance"] == {"video": 5.0}
    # Nobody knows what another tool's checkpoint was made from.
    assert (result["recordings"]["held_out"], result["recordings"]["episodes"]) == (None, 20)
    check_measures(result, out)
    # What was measured is read again, and another preset is not taken for the same.
    assert evaluated(capsys, *words) == result
    with_other = [word if word != "libero" else "libero_first" for word in words]
    assert main(["evaluate", *map(str, with_other), "--windows", "1", "--draws", "2", "--device", "cpu"]) == 2
    assert "preset" in capsys.readouterr().err


def test_a_student_of_adapters_is_judged_on_the_episodes_that_nobody_trained_on(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the released weights that the adapters were trained on."""
    run = tmp_path / "run"
    assert main(["distill", str(recipe), "--run-dir", str(run)]) == 0
    capsys.readouterr()
    result = evaluated(capsys, run, "--nfe", "1v/1a")
    assert (result["run"], result["kind"], result["step"]) == ("tiny", "student", 2)
    assert (result["recordings"]["held_out"], result["recordings"]["episodes"]) == (True, 1)
    check_measures(result, run / "evaluations" / "recordings")
    assert main(["compare", str(run), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "compare.html").read_text()
    for column in ("to teacher", "video error, grey levels", "decoded sharpness ratio", "video ms", "action ms"):
        assert f">{column}</th>" in page
