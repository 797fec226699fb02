# SPDX-License-Identifier: Apache-2.0
"""A training that is looked at: the same bits as one that is not, its best model kept, everything in TensorBoard."""

import json
from pathlib import Path
from shutil import rmtree

import pytest
import torch
from distill_toys import GaussianTeacher, ToyJudge, ToySource, ToyWam
from launching import judged_lines
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flashwam.core.streams import StreamSpec
from flashwam.distillation.judging import Judgement
from flashwam.distillation.methods import make_method
from flashwam.distillation.trainer import train
from flashwam.recipe.checks import FieldError
from flashwam.recipe.sections import JudgeConfig, LoopConfig
from flashwam.run.folder import RunFolder
from flashwam.student import load_wam

STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm"}),
    "action": StreamSpec.from_config("action", {"shift": 1.0, "regulariser": 0.2}),
}
MEASURE = "action_error_expert"


def run(folder: Path, looks, *, source: ToySource | None = None, accepted=(), seed=3, **changes) -> Path:
    values = {"method": "on_policy", "steps": 12, "batch_size": 4, "lr": 3e-2, "warmup_steps": 2, "save_every": 2}
    config = LoopConfig(**(values | changes))
    method = make_method(config, STREAMS, ToyWam.create(seed=1), teacher=GaussianTeacher())
    info = {"recipe": {"seed": 3, "distill": {"lr": 3e-2, "betas": [0.9, 0.999], "init": None}}}
    info |= {"accepted_changes": list(accepted)} if accepted else {}
    return train(method, source or ToySource(), config, run_dir=folder, seed=seed, judge=looks, info=info)


def judged(every: int = 3, **changes):
    return {"judge": JudgeConfig(every=every), "keep_best": MEASURE, **changes}


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_wam(folder, trust=True)[0].state_dict()


def same(first: Path, second: Path) -> bool:
    a, b = state(first), state(second)
    return all(torch.equal(a[name], b[name]) for name in a)


def best(folder: Path) -> dict:
    return json.loads((RunFolder(folder).best / "flashwam.json").read_text())


@pytest.mark.parametrize("save_weights", ["student", "target"])
def test_looking_changes_nothing_and_the_best_is_the_model_of_its_step(tmp_path, save_weights):
    kept = {"keep_steps": (0, 3, 6, 9), "save_weights": save_weights}
    plain = run(tmp_path / "plain", None, **kept)
    judge = ToyJudge()
    looked_at = run(tmp_path / "judged", judge, **judged(), **kept)
    assert same(plain, looked_at)
    assert judge.asked == ["step_0", "step_3", "step_6", "step_9", "step_12"]
    values = {line["step"]: line[f"judged/{MEASURE}"] for line in judged_lines(tmp_path / "judged")}
    assert len(set(values.values())) == 5
    step = min(values, key=values.__getitem__)
    told = best(tmp_path / "judged")
    assert (told["steps"], told["best"]) == (step, {"measure": MEASURE, "value": values[step]})
    there = looked_at if step == 12 else tmp_path / f"judged/steps/step_{step}"
    assert same(tmp_path / "judged/best", there)
    assert all(line["judged/training"] == 0 for line in judged_lines(tmp_path / "judged"))


class Cut(Exception):
    pass


class Stops(ToySource):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def batch(self, indices):
        if indices[0] >= 4 * self.step:
            raise Cut
        return super().batch(indices)


@pytest.mark.parametrize("stop", [1, 4, 8, 10])
def test_a_run_that_was_cut_ends_with_the_same_measures_and_the_same_best(tmp_path, stop):
    """Also where the best had been found after the last checkpoint, and where a worse one was measured since."""
    run(tmp_path / "whole", ToyJudge(), **judged())
    for cut in (stop, stop + 1):
        with pytest.raises(Cut):
            run(tmp_path / "parts", ToyJudge(), source=Stops(cut), **judged())
    run(tmp_path / "parts", ToyJudge(), **judged())
    assert judged_lines(tmp_path / "whole") == judged_lines(tmp_path / "parts")
    assert best(tmp_path / "whole")["best"] == best(tmp_path / "parts")["best"]
    assert same(tmp_path / "whole/best", tmp_path / "parts/best")


class Told:
    """Says a value for each step; why there is none, where it can say so."""

    def __init__(self, name: str, values: dict[int, float], *, undecided: str | None = None) -> None:
        self.name, self.values, self.undecided = name, values, undecided

    def __call__(self, model, streams, *, place, tells):
        value = self.values.get(int(place.name.removeprefix("step_")))
        if value is not None:
            return Judgement(measures={self.name: value})
        return Judgement(measures={"other": 1.0}, undecided={self.name: self.undecided} if self.undecided else {})


@pytest.mark.parametrize(
    ("name", "values", "step"),
    [
        ("all_error_teacher", {0: 3.0, 4: 1.0, 8: 1.0, 12: 2.0}, 8),
        ("success", {0: 0.1, 4: 0.5, 8: 0.9, 12: 0.9}, 12),
        ("success", {0: 0.0, 4: 0.0, 8: 0.0, 12: 0.0}, 12),
        ("action_variance_ratio", {0: 0.5, 4: 1.3, 8: 0.8, 12: 1.25}, 8),
        ("student_between", {0: float("nan"), 4: 0.5, 8: 0.6, 12: float("inf")}, 4),
    ],
)
def test_better_is_what_the_measure_says(tmp_path, name, values, step):
    run(tmp_path, Told(name, values), judge=JudgeConfig(every=4), keep_best=name)
    assert best(tmp_path)["steps"] == step


def test_a_step_without_the_measure_is_not_the_best_and_ends_nothing(tmp_path, caplog):
    values = {4: 0.5, 12: 0.5}
    run(
        tmp_path,
        Told("same_way", values, undecided="no draw decides"),
        judge=JudgeConfig(every=4),
        keep_best="same_way",
    )
    assert best(tmp_path)["steps"] == 12
    for step in (0, 8):
        assert f"step {step} cannot be the best by same_way: no draw decides" in caplog.text


def test_a_training_that_never_had_the_measure_ends_without_a_best(tmp_path, caplog):
    told = Told("same_way", {}, undecided="no draw decides")
    assert run(tmp_path, told, judge=JudgeConfig(every=4), keep_best="same_way").is_dir()
    assert not RunFolder(tmp_path).best.exists()
    assert "no step could be the best by same_way" in caplog.text


def test_a_measure_that_goes_missing_later_ends_nothing(tmp_path):
    run(tmp_path, Told("success", {0: 0.5, 12: 0.4}), judge=JudgeConfig(every=4), keep_best="success")
    assert best(tmp_path)["steps"] == 0


def test_a_run_that_goes_on_from_before_its_best_keeps_the_later_of_equals(tmp_path):
    told = Told("success", {0: 0.5, 3: 0.5, 6: 0.5})
    settings = {"judge": JudgeConfig(every=3), "keep_best": "success", "save_every": 100}
    with pytest.raises(Cut):
        run(tmp_path, told, source=Stops(7), **settings)
    assert best(tmp_path)["steps"] == 6
    with pytest.raises(Cut):
        run(tmp_path, told, source=Stops(4), **settings)
    assert best(tmp_path)["steps"] == 6


def test_what_was_kept_of_other_inputs_is_made_anew(tmp_path):
    """Result and checkpoints were deleted, and the training begun again with what had changed."""
    settings = {"judge": JudgeConfig(every=3), "keep_best": "success", "keep_steps": (0, 6)}
    student = run(tmp_path / "run", Told("success", {0: 0.5, 6: 0.9}), **settings)
    rmtree(student)
    rmtree(tmp_path / "run/checkpoints")
    accepted = [{"time": "later", "changed": ["teacher"]}]
    run(tmp_path / "run", Told("success", {0: 0.5, 3: 0.7, 6: 0.4}), accepted=accepted, seed=4, **settings)
    run(tmp_path / "new", Told("success", {0: 0.5, 3: 0.7, 6: 0.4}), seed=4, **settings)
    assert (best(tmp_path / "run")["steps"], best(tmp_path / "run")["accepted_changes"]) == (3, accepted)
    assert all(same(tmp_path / "run" / kept, tmp_path / "new" / kept) for kept in ("best", "steps/step_6"))


@pytest.mark.parametrize("value", ["x", None])
def test_a_damaged_note_of_the_best_is_named(tmp_path, value):
    settings = {"judge": JudgeConfig(every=3), "keep_best": "success"}
    rmtree(run(tmp_path, Told("success", {0: 0.5, 6: 0.9}), **settings))
    path = RunFolder(tmp_path).best / "flashwam.json"
    path.write_text(json.dumps({**best(tmp_path), "best": {"measure": "success", "value": value}}))
    with pytest.raises(ValueError, match=r"best/flashwam\.json must say after how many steps.*or delete"):
        run(tmp_path, Told("success", {}), **settings)


def test_a_measure_that_is_not_measured_is_said_at_the_start(tmp_path):
    with pytest.raises(ValueError, match="keep_best: success was not measured; measured were other"):
        run(tmp_path, Told("x", {}), judge=JudgeConfig(every=4), keep_best="success")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_best": "success"}, "keep_best must be null without judge"),
        ({"keep_best": "loss", "judge": JudgeConfig()}, "a measure by which one model is better than another"),
    ],
)
def test_a_recipe_that_cannot_choose_is_refused(changes, message):
    with pytest.raises(FieldError, match=message):
        LoopConfig(**changes)


def test_a_training_without_a_judge_that_its_recipe_asks_for_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the recipe asks for a judge"):
        run(tmp_path, None, judge=JudgeConfig())


def test_tensorboard_holds_measures_pictures_settings_and_text(tmp_path):
    run(tmp_path, ToyJudge(), **judged())
    held = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    held.Reload()
    measured = [(event.step, event.value) for event in held.Scalars(f"judged/{MEASURE}")]
    assert [step for step, _ in measured] == [0, 3, 6, 9, 12, 12]
    assert measured[-1] == measured[-2]
    pictures = held.Images("judged/noise")
    assert [(event.step, event.width, event.height) for event in pictures] == [(s, 6, 4) for s in (0, 3, 6, 9, 12)]
    told = held.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"lr": 0.03' in told
    plugins = held.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"distill.lr" in plugins
    assert b"0.9, 0.999" in plugins


class OfControls:
    """Says a measure of all controls and one of one."""

    def __call__(self, model, streams, *, place, tells):
        return Judgement(measures={MEASURE: 1.0, "error_recorded/left_x": 2.5})


def test_measures_of_single_controls_are_curves_and_no_columns_of_a_table_of_runs(tmp_path):
    run(tmp_path, OfControls(), **judged(6))
    held = EventAccumulator(str(tmp_path / "tensorboard"))
    held.Reload()
    measured = held.Scalars("judged/error_recorded/left_x")
    assert [(event.step, event.value) for event in measured] == [(0, 2.5), (6, 2.5), (12, 2.5)]
    told = held.SummaryMetadata("_hparams_/experiment").plugin_data.content
    assert f"judged/{MEASURE}".encode() in told
    assert b"left_x" not in told
