# SPDX-License-Identifier: Apache-2.0
"""The content of a checkpoint is never run, damage to it is found, and an older whole one is used instead."""

import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from distill_toys import GaussianTeacher, ToySource, ToyWam
from safetensors.torch import load_file, save_file

from flashwam.core.streams import StreamSpec
from flashwam.distillation import checkpoint, state_files
from flashwam.distillation.methods import make_method
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig, LoraConfig
from flashwam.student import load_wam
from flashwam.system import tensor_file

LORA = LoraConfig(rank=2, alpha=4, targets=("video", "action", "shared"))


class Interrupted(Exception):
    pass


class Interrupts(ToySource):
    """Ends the run in its sixth step, after checkpoints of steps 2 and 4."""

    def batch(self, indices):
        if indices[0] >= 5 * 2:
            raise Interrupted
        return super().batch(indices)


def run(folder: Path, *, lora: LoraConfig | None = None, source: ToySource | None = None) -> Path:
    config = LoopConfig(
        method="consistency", steps=6, batch_size=2, lr=1e-2, save_every=2, diagnose_every=0, lora=lora, log_every=1
    )
    streams = {name: StreamSpec.from_config(name, {"shift": 1.0}) for name in ("video", "action")}
    student = ToyWam.create(seed=1)
    method = make_method(config, streams, student, teacher=GaussianTeacher() if lora is None else student)
    return train(method, source or ToySource(), config, run_dir=folder, seed=3)


def interrupted(folder: Path, lora: LoraConfig | None = None) -> Path:
    with pytest.raises(Interrupted):
        run(folder, lora=lora, source=Interrupts())
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    return interrupted(tmp_path_factory.mktemp("stopped") / "run")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, torch.Tensor]:
    return load_wam(run(tmp_path_factory.mktemp("whole")), trust=True)[0].state_dict()


def copied(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def ends_alike(folder: Path, expected: dict[str, torch.Tensor]) -> bool:
    found = load_wam(run(folder), trust=True)[0].state_dict()
    return all(torch.equal(value, found[name]) for name, value in expected.items())


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_no_file_of_a_run_is_unpickled(tmp_path, lora):
    """Each in turn is a pickle, once a bare one and once torch's; and so is what an earlier version kept there."""
    stopped, marker = interrupted(tmp_path / "stopped", lora), tmp_path / "ran"
    old = ("custom_checkpoint_0.pkl", "optimizer.bin", "pytorch_model.bin", "random_states_0.pkl", ".metadata")
    names = [p.relative_to(stopped) for p in stopped.rglob("*") if p.is_file()]
    names += [Path("checkpoints/step_000004", name) for name in old]
    assert {p.suffix for p in (stopped / "checkpoints").rglob("*.*")} == {".safetensors", ".json"}
    for number, name in enumerate(names):
        folder = Path(shutil.copytree(stopped, tmp_path / f"{number}"))
        if number % 2:
            torch.save(Bomb(marker), folder / name)
        else:
            (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
        run(folder, lora=lora)
        assert not marker.exists(), name


def test_any_flipped_bit_is_found_and_the_older_checkpoint_used(tmp_path, stopped, expected, caplog):
    draws = random.Random(0)
    for path in sorted((stopped / "checkpoints/step_000004").iterdir()):
        content = bytearray(path.read_bytes())
        for _ in range(40):
            flipped = bytearray(content)
            flipped[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
            folder = tmp_path / "checkpoint"
            shutil.copytree(path.parent, folder, dirs_exist_ok=True)
            (folder / path.name).write_bytes(flipped)
            damage = checkpoint.find_damage(folder, 4)
            # White space between the manifest's values means nothing.
            assert damage is None if _same(path, content, flipped) else path.name in damage or "training.json" in damage
    folder = copied(stopped, tmp_path)
    state = folder / "checkpoints/step_000004/state_00000.safetensors"
    content = bytearray(state.read_bytes())
    content[-5] ^= 4
    state.write_bytes(content)
    assert ends_alike(folder, expected)
    assert "step_000004 is damaged: state_00000.safetensors is not as it was written" in caplog.text
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["step_000002", "step_000004"]
    assert checkpoint.find_damage(folder / "checkpoints/step_000004", 4) is None


def _same(path: Path, one: bytes, other: bytes) -> bool:
    if path.suffix != ".json":
        return False
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "folder"])
@pytest.mark.parametrize("name", ["training.json", "state_00000.safetensors", "random_00000.safetensors"])
def test_a_run_with_no_whole_checkpoint_says_so_and_does_not_begin_again(tmp_path, stopped, damage, name):
    folder = copied(stopped, tmp_path)
    for path in folder.glob(f"checkpoints/*/{name}"):
        content = path.read_bytes()
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage != "missing":
            path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(
        ValueError, match=rf"no checkpoint in .* is whole \(step_000004: {name} .*; step_000002: {name}"
    ):
        run(folder)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_strays_among_checkpoints_stop_nothing(tmp_path, stopped, expected):
    folder = copied(stopped, tmp_path)
    kept = folder / "checkpoints"
    for name in ("step_x", "step_000009.bak", "step_", "step_-00001", ".DS_Store.d", "step_12"):
        (kept / name).mkdir()
    for name in (".DS_Store", "step_000008", "step_000004/notes.txt", "step_000004/state_00007.safetensors"):
        (kept / name).write_text("stray")
    assert ends_alike(folder, expected)
    assert (kept / "step_000008").read_text() == "stray"


def test_another_models_checkpoint_is_refused(tmp_path, stopped):
    with pytest.raises(ValueError, match=r"another model's: student\.weights\..* is missing"):
        run(copied(stopped, tmp_path), lora=LORA)


def test_a_disk_that_fills_keeps_the_older_checkpoint_and_says_what_to_do(tmp_path, stopped, expected, monkeypatch):
    folder = copied(stopped, tmp_path)
    shutil.rmtree(folder / "checkpoints/step_000004")
    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "save_file", _full)
        with pytest.raises(OSError, match=r"step_000004 could not be written .*No space left.*make room"):
            run(folder)
    assert ends_alike(folder, expected)


def _full(*arguments, **keywords):
    from safetensors import SafetensorError

    raise SafetensorError('I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }')


def test_a_state_of_many_parts_is_read_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(state_files, "PART_BYTES", 100)
    written = {f"a.{i}": torch.randn(i, 3) for i in range(12)} | {"step": torch.tensor(3.0), "none": torch.zeros(0)}
    written["same"] = written["step"]
    writer = state_files.StateWriter(tmp_path)
    for name, value in written.items():
        writer.add(name, value)
    writer.close()
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) > 3
    read = state_files.StateReader(tmp_path, names)
    assert set(read) == set(written)
    assert all(torch.equal(value, read[name]) for name, value in written.items())


def test_global_generators_go_on_where_they_were(tmp_path):
    import numpy as np

    random.gauss(0, 1)
    np.random.standard_normal()
    state_files.save_random_state(tmp_path / "state.safetensors")
    first = (random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.randn(3).tolist())
    state_files.load_random_state(tmp_path / "state.safetensors")
    again = (random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.randn(3).tolist())
    assert first == again


@pytest.mark.parametrize("name", ["checkpoints", "student", "steps"])
def test_a_file_in_a_folders_place_is_said_before_anything_is_trained(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"{name} must be a folder, or not be there; it is a file: move it away"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["file", "link to nothing", "link to a folder"])
def test_what_has_a_checkpoints_name_and_is_none_stops_nothing_and_is_not_lost(tmp_path, stopped, expected, kind):
    folder = copied(stopped, tmp_path)
    place, elsewhere = folder / "checkpoints/step_000004", tmp_path / "elsewhere"
    shutil.rmtree(place)
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(elsewhere)
    if kind == "link to a folder":
        elsewhere.mkdir()
        (elsewhere / "mine").touch()
    assert ends_alike(folder, expected)
    assert checkpoint.find_damage(place, 4) is None
    assert kind != "file" or place.with_name("step_000004.bak").read_text() == "mine"
    assert kind != "link to a folder" or (elsewhere / "mine").exists()


@pytest.mark.parametrize("steps", ["x", None, [3], 1.5, -1])
def test_a_result_that_does_not_say_its_steps_is_said(tmp_path, steps):
    (tmp_path / "student").mkdir()
    (tmp_path / "student/flashwam.json").write_text(json.dumps({"steps": steps}))
    with pytest.raises(ValueError, match=r"flashwam\.json: steps must be a whole number"):
        run(tmp_path)


def rewritten(folder: Path, name: str, change) -> None:
    """Changes a file of a checkpoint, and its manifest with it."""
    values = load_file(folder / name)
    change(values)
    save_file(values, folder / name)
    (folder / "training.json").unlink()
    checkpoint._write_manifest(folder, 4)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_an_optimiser_of_another_model_is_refused(tmp_path, stopped, change):
    def edit(values):
        key = next(key for key in values if key.startswith("optimizer.exp_avg."))
        if change == "missing":
            del values[key]
        else:
            values[key] = torch.zeros(7, 5)

    folder = copied(stopped, tmp_path)
    rewritten(folder / "checkpoints/step_000004", "state_00000.safetensors", edit)
    with pytest.raises(ValueError, match="another model's: the optimiser's state of"):
        run(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("numpy", [1]), ("numpy_gauss", [float("nan"), 1, 0]), ("python", [-1] * 625), ("torch", [0])]
)
def test_random_states_that_are_none_are_refused_by_their_file(tmp_path, stopped, key, value):
    folder = copied(stopped, tmp_path)
    rewritten(
        folder / "checkpoints/step_000004",
        "random_00000.safetensors",
        lambda values: values.update({key: torch.tensor(value).to(values[key].dtype)}),
    )
    with pytest.raises(ValueError, match=r"random_00000\.safetensors is no state of random generators"):
        run(folder)
