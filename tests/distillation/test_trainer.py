# SPDX-License-Identifier: Apache-2.0
"""The loop: same bits after any interruption, same step however it is split, loud about numbers that are not finite."""

import json
import math
import multiprocessing
import os
import random
import re
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.utils.tensorboard
from distill_toys import GaussianTeacher, ToySource, ToyWam
from tqdm import tqdm

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import NonFiniteError, make_method
from flashwam.distillation.metrics import MetricsLog
from flashwam.distillation.optimizers import learning_rate_factor
from flashwam.distillation.roles import relative_distance
from flashwam.distillation.start_checks import check_weights
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig
from flashwam.run.folder import RunFolder
from flashwam.student import load_wam
from flashwam.system import files
from flashwam.system.files import beside, only_writer

STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm", "guidance": [2, 4]}),
    "action": StreamSpec.from_config("action", {"shift": 1.0, "regulariser": 0.2}),
}


def loop(**changes) -> LoopConfig:
    values = {
        "method": "consistency",
        "steps": 24,
        "batch_size": 4,
        "lr": 1e-2,
        "warmup_steps": 5,
        "save_every": 5,
        "log_every": 4,
        "diagnose_every": 8,
        "ema_decay": 0.9,
    }
    return LoopConfig(**(values | changes))


def run(folder: Path, config: LoopConfig, *, source: ToySource | None = None, seed: int = 3, **keywords) -> Path:
    method = make_method(config, STREAMS, ToyWam.create(seed=1), teacher=GaussianTeacher())
    return train(method, source or ToySource(), config, run_dir=folder, seed=seed, **keywords)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_wam(folder, trust=True)[0].state_dict()


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["grad_norm"]) for line in metrics(folder)]


class Interrupted(Exception):
    pass


class StopsAt(ToySource):
    """Interrupts the run when draws from `index` on are asked for."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def batch(self, indices):
        if indices[0] >= self.index:
            raise Interrupted
        return super().batch(indices)


@pytest.mark.parametrize("method", ["consistency", "flow_matching", "on_policy"])
@pytest.mark.parametrize("save_weights", ["student", "target"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, method, save_weights):
    config = loop(method=method, save_weights=save_weights, keep_steps=(0, 7, 20))
    whole = run(tmp_path / "whole", config)
    for stop in (3, 8, 17):
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", config, source=StopsAt(stop * 4))
    parts = run(tmp_path / "parts", config)
    assert same(whole, parts)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert [step for step, _, _ in losses(tmp_path / "parts")] == [1, 4, 8, 12, 16, 20, 24]
    for step in (0, 7, 20):
        assert same(tmp_path / f"whole/steps/step_{step}", tmp_path / f"parts/steps/step_{step}")


def test_training_moves_the_weights_and_another_seed_moves_them_elsewhere(tmp_path):
    first = run(tmp_path / "a", loop(keep_steps=(0,)))
    assert not same(first, tmp_path / "a/steps/step_0")
    assert not same(first, run(tmp_path / "b", loop(), seed=4))


def _child(folder: Path, config: LoopConfig, kill_at: int | None) -> None:
    """A run in a process of its own; with `kill_at`, it kills itself at that file operation."""
    if kill_at is not None:
        left = [kill_at]

        def counted(operation):
            def call(*arguments, **keywords):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return operation(*arguments, **keywords)

            return call

        files.os.fsync = counted(os.fsync)
        files.shutil.rmtree = counted(files.shutil.rmtree)
        files.Path.rename = counted(Path.rename)
    # Forks share the progress bars' lock, and one that is killed may hold it.
    tqdm.set_lock(threading.RLock())
    run(folder, config, source=ToySource(seconds=0.004))
    os._exit(0)


def start(folder: Path, config: LoopConfig, kill_at: int | None = None):
    process = multiprocessing.get_context("fork").Process(target=_child, args=(folder, config, kill_at))
    process.start()
    return process


def test_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    config = loop(steps=40, save_every=3, keep_steps=(20,))
    begin = time.monotonic()
    expected = run(tmp_path / "whole", config, source=ToySource(seconds=0.004))
    duration = time.monotonic() - begin
    moments = random.Random(0)
    killed = 0
    while killed < 6:
        process = start(tmp_path / "killed", config)
        process.join(moments.uniform(0.1, 0.5) * duration)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        elif (tmp_path / "killed/student/flashwam.json").is_file():
            # It finished before its moment: begin again, so that six kills really happen.
            files.remove_folder(tmp_path / "killed")
    last = start(tmp_path / "killed", config)
    last.join()
    assert last.exitcode == 0
    assert same(expected, tmp_path / "killed/student")
    assert same(tmp_path / "whole/steps/step_20", tmp_path / "killed/steps/step_20")
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_killed_at_file_operations_ends_with_the_same_bits(tmp_path):
    config = loop(steps=16, save_every=4, keep_steps=(6,))
    expected = run(tmp_path / "whole", config)
    for kill_at in (2, 5, 9, 12, 14, 17, 21, 26):
        process = start(tmp_path / "killed", config, kill_at)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        for path in (tmp_path / "killed").glob("checkpoints/step_*"):
            assert (path / "training.json").is_file()
    last = start(tmp_path / "killed", config)
    last.join()
    assert last.exitcode == 0
    assert same(expected, tmp_path / "killed/student")
    left = [p.name for p in (tmp_path / "killed").rglob(".*")]
    assert left == []


@pytest.mark.parametrize("method", ["consistency", "flow_matching", "on_policy"])
def test_accumulated_batches_equal_one_large_batch(tmp_path, method):
    config = partial(loop, method=method, steps=3, clip_norm=1e9, lr=1e-3, log_every=1)
    large = run(tmp_path / "large", config(batch_size=8))
    small = run(tmp_path / "small", config(batch_size=2, accumulation=4))
    first, second = weights(large), weights(small)
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=1e-6)
    # What is logged is of the whole step; where gradients come from is looked at in one batch of it.
    apart = re.compile(r"second|\w+/grad_|cosine_")
    rows = [
        [{name: value for name, value in row.items() if not apart.search(name)} for row in metrics(tmp_path / each)]
        for each in ("large", "small")
    ]
    assert rows[0] == [pytest.approx(row, rel=1e-4, abs=1e-6) for row in rows[1]]
    assert any("loss_sigma_bin" in name for name in rows[0][0])


def test_only_whole_checkpoints_the_newest_two(tmp_path):
    run(tmp_path, loop())
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_000015", "step_000020"]


def test_finished_run_is_left_alone(tmp_path, caplog):
    result = run(tmp_path, loop())
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    caplog.set_level("INFO")
    assert run(tmp_path, loop(), source=StopsAt(0)) == result
    assert "finished" in caplog.text
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match="24 steps already"):
        run(tmp_path, loop(steps=10))


def test_log_lines_after_the_last_checkpoint_are_dropped(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, loop(), source=StopsAt(13 * 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "loss": 99}\n{"step": 13, "lo')
    run(tmp_path, loop())
    steps = [step for step, loss, _ in losses(tmp_path) if loss != 99]
    assert steps == [1, 4, 8, 12, 16, 20, 24]
    assert len(losses(tmp_path)) == 7


@pytest.mark.parametrize("method", ["consistency", "flow_matching"])
def test_non_finite_loss_names_stream_sigma_and_sample_and_saves_nothing(tmp_path, method):
    config = loop(method=method, save_every=1, keep_steps=(12,))
    with pytest.raises(NonFiniteError, match=r"stream 'action'.* sample 46 .*\n?.*sigma per frame \[0\.0000, 0\.\d{4}"):
        run(tmp_path, config, source=ToySource(poison=46))
    # Sample 46 is drawn by step 11, the twelfth.
    assert max(int(p.name[5:]) for p in (tmp_path / "checkpoints").iterdir()) == 11
    assert not (tmp_path / "steps/step_12").exists()
    assert not (tmp_path / "student").exists()


def test_non_finite_loss_says_what_the_source_knows_of_the_sample(tmp_path):
    class Describes(ToySource):
        def describe(self, index):
            return f"drawer-open/episode_{index}"

    with pytest.raises(NonFiniteError, match="sample 46: drawer-open/episode_46"):
        run(tmp_path, loop(), source=Describes(poison=46))


@pytest.mark.parametrize(
    "broken",
    [b"[1,2]", b"null", b"\xff\xfe", b'{"step": "4"}', b'{"step": NaN}', b"7", b"", b"[" * 100_000, b'{"step"'],
)
def test_a_broken_line_among_the_metrics_is_left_out_and_said(tmp_path, broken, caplog):
    with pytest.raises(Interrupted):
        run(tmp_path, loop(steps=8, log_every=1), source=StopsAt(6 * 4))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(broken + b"\n" + path.read_bytes())
    run(tmp_path, loop(steps=8, log_every=1))
    assert [step for step, _, _ in losses(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "1 damaged lines are left out" in caplog.text


def test_numbers_that_json_does_not_have_are_left_out_and_measures_among_them_told(tmp_path, caplog):
    log = MetricsLog(RunFolder(tmp_path), 0)
    log.write(1, {"loss": 0.5, "action/gradient_scale": math.nan, "lr": math.inf})
    assert not caplog.text
    log.write(2, {"judged/success": math.nan, "judged/error": 1.0})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2, "judged/error": 1.0}\n'
    assert "step 2: judged/success came to no finite number" in caplog.text


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize(("value", "words"), [(math.nan, "holds 1 NaN"), (-math.inf, "holds 1 infinite")])
def test_a_weight_that_is_bad_before_the_first_step_is_named_as_such(tmp_path, role, value, words):
    models = {"student": ToyWam.create(seed=1), "teacher": GaussianTeacher()}
    with torch.no_grad():
        models[role].inside["video"].weight[1, 2] = value
    method = make_method(loop(), STREAMS, models["student"], teacher=models["teacher"])
    with pytest.raises(NonFiniteError, match=rf"{role}'s weights are bad .*'inside\.video\.weight' {words}"):
        train(method, ToySource(), loop(), run_dir=tmp_path, seed=0)


def test_weights_whose_sum_is_too_large_are_not_bad():
    layer = torch.nn.Linear(2, 2)
    layer.weight.data.fill_(2e38)
    check_weights(layer, "student")


class Masked(ToySource):
    """Nothing of these streams has a loss."""

    def __init__(self, *streams):
        super().__init__()
        self.streams = streams

    def batch(self, indices):
        batch = super().batch(indices)
        empty = {name: torch.zeros_like(batch.mask[name]) for name in self.streams}
        return replace(batch, mask={**batch.mask, **empty})


@pytest.mark.parametrize("stream", ["video", "action"])
def test_a_stream_that_is_never_learned_is_said_once(tmp_path, stream, caplog):
    run(tmp_path, loop(log_every=1), source=Masked(stream))
    said = [record.message for record in caplog.records if "learns nothing" in record.message]
    assert len(said) == 1
    assert f"'{stream}'" in said[0]
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in lines
    assert f'"{stream}/gradient_scale"' not in lines


@pytest.mark.parametrize("steps", [4, 24])
def test_a_training_of_nothing_stops(tmp_path, steps):
    with pytest.raises(ValueError, match="masks of 'video', 'action' were empty in every sample"):
        run(tmp_path, loop(steps=steps), source=Masked("video", "action"))
    assert not (tmp_path / "student").exists()


def test_metrics_are_named_alike_for_every_stream(tmp_path):
    run(tmp_path, loop())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    for stream in STREAMS:
        assert {f"{stream}/{key}" for key in ("loss", "grad_norm", "gradient_scale")} <= set(last)
    assert -1 <= last["cosine_video_action"] <= 1
    assert last["ema_drift"] > 0
    assert last["lr"] == pytest.approx(1e-2)
    assert {"steps_per_second", "seconds_left", "grad_norm", "loss"} <= set(last)
    # The slope of pseudo-Huber is below 1, so the measured gradient is below |b|, here sigma.
    for line in lines:
        for k in range(10):
            measured = line.get(f"action/grad_sigma_bin_{k}")
            assert measured is None or measured <= (k + 1) / 10
    assert any(line.get("action/grad_sigma_bin_9", 0) > 0.8 for line in lines)


def test_learning_rate_course():
    constant = loop(steps=100, warmup_steps=10)
    assert learning_rate_factor(0, constant) == pytest.approx(1 / 11)
    assert learning_rate_factor(10, constant) == learning_rate_factor(99, constant) == 1
    cosine = loop(steps=110, warmup_steps=10, lr_decay="cosine")
    assert learning_rate_factor(60, cosine) == pytest.approx(0.5)
    assert learning_rate_factor(109, cosine) < 1e-3


def test_what_else_belongs_to_a_model_is_exported_with_it(tmp_path):
    def codec(folder):
        (folder / "codec.json").write_text("{}")

    result = run(tmp_path, loop(keep_steps=(4,)), extra_files=codec, info={"name": "toy"})
    assert (result / "codec.json").is_file()
    assert (tmp_path / "steps/step_4/codec.json").is_file()
    assert load_wam(result, trust=True)[1].extra["name"] == "toy"
    # While it is written the folder has another name.
    for folder in (result, tmp_path / "steps/step_4"):
        assert f'load_wam("{folder.name}")' in (folder / "README.md").read_text()


def test_target_lags_behind_and_is_what_is_saved_when_asked(tmp_path):
    student = load_wam(run(tmp_path / "s", loop(steps=5)), trust=True)[0]
    target = load_wam(run(tmp_path / "t", loop(steps=5, save_weights="target")), trust=True)[0]
    start_ = ToyWam.create(seed=1)
    assert 0 < relative_distance(target, start_) < relative_distance(student, start_)


def test_a_run_folder_has_one_writer(tmp_path, specs, wam, teacher):
    """Two processes on one run would replace each other's checkpoints."""
    config = LoopConfig(method="consistency", steps=2, batch_size=4)
    half_written = [beside(tmp_path / name) for name in ("checkpoints/step_000002", "steps/step_2", "student")]
    for folder in half_written:
        folder.mkdir(parents=True)
    with only_writer(tmp_path), pytest.raises(RuntimeError, match="another process is training"):
        train(make_method(config, specs(), wam, teacher=teacher), ToySource(), config, run_dir=tmp_path, seed=0)
    assert not (tmp_path / "metrics.jsonl").exists()
    # What the other process is writing.
    assert all(folder.is_dir() for folder in half_written)
    train(make_method(config, specs(), wam, teacher=teacher), ToySource(), config, run_dir=tmp_path, seed=0)
    assert not any(folder.exists() for folder in half_written)
