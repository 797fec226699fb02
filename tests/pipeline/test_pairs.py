# SPDX-License-Identifier: Apache-2.0
"""Pairs of a released data set: made ahead, found by the training, and nobody keeps the teacher."""

import gc
import json
import logging
import weakref
from dataclasses import replace

import lerobot_sets
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_wam

from flashwam import pipeline
from flashwam.cli import main
from flashwam.distillation.futures import TeacherFuture
from flashwam.pipeline import ready
from flashwam.recipe.load import load_recipe, to_yaml
from flashwam.recipe.sections import LoraConfig

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "num_layers": 1,
    "ffn_dim": 32,
    "freq_dim": 16,
    "text_dim": 6,
    "patch_size": (1, 2, 1),
    "in_channels": 4,
    "out_channels": 4,
    "latent_size": (2, 7),
    "chunk_frames": 4,
    "actions_per_frame": 4,
    "action_dim": 30,
    "window_chunks": 4,
    "used_channels": (0, 1, 2, 3, 4, 5, 6),
}
PAIRS = 4 * 2 * 2 // 2
"""Of four steps of two batches of two, each pair used twice."""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """LIBERO's recipe on a tiny network: windows of two chunks, some without text, guided at 5."""
    monkeypatch.setenv("FLASHWAM_CACHE", str(tmp_path / "cache"))
    teacher = tiny_wam(**CONFIG)
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    teacher.save_pretrained(tmp_path / "teacher")
    episodes = [(64, [(0, 64, 0, 16)]), (64, [(0, 64, 0, 13)])]
    lerobot_sets.write_set(tmp_path / "data", "libero", {"libero-long-lerobot": episodes})
    settings = {
        "data.root": tmp_path / "data",
        "data.window_frames": 8,
        "data.text_dropout": 0.5,
        "wam.pretrained": tmp_path / "teacher",
        "wam.config.attention": "sdpa",
        "streams.video.teacher_steps": 2,
        "streams.action.teacher_steps": 3,
        "distill.steps": 4,
        "distill.batch_size": 2,
        "distill.accumulation": 2,
        "distill.strategy": "single",
        "distill.options.reuse": 2,
        "distill.options.drawn_at_once": 3,
        **{f"wam.config.{key}": json.dumps(value) for key, value in CONFIG.items()},
    }
    return load_recipe("libero/pairs", [f"{key}={value}" for key, value in settings.items()])


@pytest.fixture
def drawn(monkeypatch):
    """Counts the windows of each call of a teacher; notes its weights' dtype and what came out."""
    calls = []
    draw = TeacherFuture.draw

    def noted(self, batch, noise):
        out = draw(self, batch, noise)
        calls.append((batch.size, next(self._teacher.parameters()).dtype, out))
        return out

    monkeypatch.setattr(TeacherFuture, "draw", noted)
    return calls


def without_a_teacher(recipe, monkeypatch, folder):
    """Distils, and tells which teachers were in memory when the first step was to come."""
    teachers, alive, load, train = [], [], pipeline.training.load_pretrained, ready.run_training

    def loading(*arguments, **keywords):
        model = load(*arguments, **keywords)
        teachers.append(weakref.ref(model))
        return model

    def training(*arguments, **keywords):
        gc.collect()
        alive.extend(found for found in (teacher() for teacher in teachers) if found is not None)
        return train(*arguments, **keywords)

    monkeypatch.setattr(pipeline.training, "load_pretrained", loading)
    monkeypatch.setattr(ready, "run_training", training)
    student = pipeline.distill(recipe, run_dir=folder)
    return student, alive


def test_pairs_made_ahead_are_found_and_the_teacher_is_gone(recipe, drawn, tmp_path, monkeypatch):
    made = pipeline.make_pairs(recipe)
    assert sum(size for size, _, _ in drawn) == sum(made.pairs) == made.store.made == PAIRS
    assert made.store.folder.is_relative_to(tmp_path / "cache")
    # The passes are in bfloat16, so the teacher is; what is stored has half the bytes and is finite.
    for _, dtype, out in drawn:
        assert dtype == torch.bfloat16
        assert all(bool(torch.isfinite(x).all()) for x in out.values())
    for path in made.store.folder.glob("*.safetensors"):
        assert {(x.dtype, x.shape[2]) for x in load_file(path).values()} == {(torch.float16, 4)}
    drawn.clear()
    assert pipeline.make_pairs(recipe).store.made == 0
    student, alive = without_a_teacher(recipe, monkeypatch, tmp_path / "run")
    assert drawn == []
    assert (student / "transformer").is_dir()
    # Only the student, loaded from the same folder, is left.
    assert len(alive) == 1


def test_another_teacher_draws_anew_and_the_log_says_so(recipe, drawn, caplog):
    first = pipeline.make_pairs(recipe)
    drawn.clear()
    streams = {**recipe.streams, "video": replace(recipe.streams["video"], guidance_scale=2.0)}
    with caplog.at_level(logging.INFO):
        other = pipeline.make_pairs(replace(recipe, streams=streams))
    assert sum(size for size, _, _ in drawn) == other.store.made == PAIRS
    assert other.store.folder != first.store.folder
    told = f"drawn anew: those in {first.store.folder} differ in samplers.video.guidance_scale; they stay"
    assert told in caplog.text
    assert list(first.store.folder.glob("*.safetensors"))


def test_adapters_learn_from_the_pairs_of_the_whole_model(recipe, drawn, tmp_path):
    pytest.importorskip("peft")
    pipeline.make_pairs(recipe)
    drawn.clear()
    adapted = replace(recipe, distill=replace(recipe.distill, lora=LoraConfig(rank=2, alpha=2)))
    student = pipeline.distill(adapted, run_dir=tmp_path / "run")
    assert drawn == []
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(tmp_path / "teacher" / name), load_file(student / name)
    changed = {key for key in before if not torch.equal(before[key], after[key].to(before[key]))}
    assert before.keys() == after.keys()
    assert any("attn1.to_q" in key for key in changed)


def test_the_command_says_what_there_is_and_goes_on_where_it_was(recipe, drawn, tmp_path, capsys, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    draw, calls = TeacherFuture.draw, []

    def stopped(self, batch, noise):
        calls.append(batch.size)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(self, batch, noise)

    monkeypatch.setattr(TeacherFuture, "draw", stopped)
    assert main(["pairs", str(tmp_path / "recipe.yaml")]) == 130
    assert "the same command resumes it" in capsys.readouterr().err
    assert main(["pairs", str(tmp_path / "recipe.yaml")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    folder = next((tmp_path / "cache" / "rollouts").iterdir())
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert line == f"pairs: {PAIRS} in {folder}, {size:,} bytes; {PAIRS - calls[0]} of them were made here"
    assert sum(size for size, _, _ in drawn) == PAIRS
    # No run was begun.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "recipe.yaml", "teacher"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("distill.options.reuse=0", "options.reuse must be a finite number of at least 1; got 0"),
        ("distill.options.first_share=2", "options.first_share must be a number from 0 to 1, or null; got 2"),
        ("distill.options.reuze=5", "did you mean 'reuse'"),
        ("data.window_frames=7", "pairs need windows of whole chunks of 4 latent frames; got 7: data.window_frames"),
        ("wam.pretrained=null", "wam.pretrained names no teacher"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_sentence(recipe, tmp_path, capsys, override, told):
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert main(["pairs", str(tmp_path / "recipe.yaml"), override]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last


def test_another_method_has_no_pairs(recipe):
    other = replace(recipe, distill=replace(recipe.distill, method="consistency", options={}))
    with pytest.raises(ValueError, match="learns from no stored pairs; take a recipe of method pairs"):
        pipeline.make_pairs(other)


def test_a_folder_that_cannot_be_written_is_named(recipe, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    (tmp_path / "cache").write_text("a file")
    assert main(["pairs", str(tmp_path / "recipe.yaml")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert f"{tmp_path / 'cache'} is no folder" in last
