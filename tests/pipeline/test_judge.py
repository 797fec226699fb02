# SPDX-License-Identifier: Apache-2.0
"""A model that is measured while it is trained, beside the same model saved and loaded."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch

from flashwam import pipeline
from flashwam.data.codec import Codec
from flashwam.data.control_names import ControlNames
from flashwam.distillation.keep_best import MEASURES_OF_WAYS
from flashwam.evaluation.open_loop import window_draws
from flashwam.evaluation.windows import find_windows
from flashwam.pipeline import judge
from flashwam.pipeline.data import prepare_data
from flashwam.pipeline.judge import _undecided, check_judge, check_pictures, listed_measures, make_judge
from flashwam.pipeline.training import distill
from flashwam.plan.names import check_names
from flashwam.recipe.load import load_recipe
from flashwam.report.metrics import read_metrics
from flashwam.run.folder import RunFolder
from flashwam.run.model_info import ModelInfo
from flashwam.sampling import samplers_for
from flashwam.student import load_wam
from flashwam.system.paths import ASSETS

TEACHER = ASSETS / "teacher"


SETTINGS = (
    "data.tasks=[faucet-turn]",
    f"wam.pretrained={TEACHER}",
    "distill.judge={every: 2, windows: 2, draws: 8, episodes: 1, nfe: 1v/2a}",
    "distill.keep_best=success",
)


@pytest.fixture
def recipe(two_way_episodes):
    settings = [
        *SETTINGS,
        "data.multimodal_episodes=20",
        "data.processes=1",
        f"data.root={two_way_episodes}",
        "distill.steps=2",
        "distill.batch_size=2",
        "distill.warmup_steps=0",
    ]
    return load_recipe("metaworld/flash_wam", settings)


def judge_of(recipe, run, **changes):
    loop = replace(recipe.distill, judge=replace(recipe.distill.judge, **changes))
    student, teacher = (load_wam(folder)[0] for folder in (run / "student", TEACHER))
    codec = Codec.load(TEACHER)
    parts = {"student": student, "teacher": teacher, "codec": codec, "run": RunFolder(run)}
    return make_judge(recipe, loop, result="student", **parts), student


@pytest.mark.parametrize(
    ("name", "changes", "learnt"),
    [
        ("flash_wam", [], False),
        ("pairs_cooled_actions", [], True),
        ("pairs", ["streams.video.guidance_scale=3", "streams.action.teacher_steps=4"], True),
        ("pairs", ["streams.action.shift=0.05"], True),
        ("on_policy", ["streams.action.teacher_temperature=0"], True),
    ],
)
def test_a_student_is_held_against_the_draws_that_it_learns(recipe, tmp_path, name, changes, learnt):
    """A student that draws as it is taught errs nowhere; consistency is told nothing of how its teacher draws."""
    about = ["data.tasks=[faucet-turn]", "data.multimodal_episodes=20", f"wam.pretrained={TEACHER}"]
    asked = load_recipe(f"metaworld/{name}", [*about, f"data.root={recipe.data.root}", *changes])
    prepare_data(asked)
    teacher, codec = load_wam(TEACHER)[0], Codec.load(TEACHER)
    batch = judge._windows(asked, codec, teacher).source.batch(range(2))
    run, device = RunFolder(tmp_path), torch.device("cpu")
    found = judge._reference(teacher, asked, asked.distill, batch, draws=2, run=run, device=device)
    own = ModelInfo.read(TEACHER).streams
    streams = asked.streams if learnt else own
    if name == "on_policy":
        streams = own | {"action": replace(own["action"], teacher_temperature=0.0)}
    taught = samplers_for(streams, steps=None, teacher=True)
    expected = window_draws(teacher, taught, batch, draws=2, seed=judge._NOISE)
    assert all(torch.equal(x, one[key]) for one, other in zip(found, expected, strict=True) for key, x in other.items())
    if learnt:
        usual = window_draws(teacher, samplers_for(own, steps=None, teacher=True), batch, draws=2, seed=judge._NOISE)
        assert not torch.equal(usual[0]["action"], found[0]["action"])


def test_the_last_measures_are_those_of_the_result(recipe, tmp_path, monkeypatch):
    run = tmp_path / "run"
    pipeline.distill(recipe, run_dir=run)
    judged = [line for line in read_metrics(run / "metrics.jsonl") if "judged/success" in line]
    assert [line["step"] for line in judged] == [0, 2]
    last = judged[-1]
    assert last["judged/success"] == last["judged/faucet-turn_success"]
    assert last["judged/all_error_teacher"] > 0
    assert not [name for name in last if name.startswith(("judged/teacher_", "judged/recorded_"))]
    assert {"step_2_video.png", "step_2_trajectories.png"} <= {path.name for path in (run / "judged").iterdir()}

    judge, student = judge_of(recipe, run)
    # The teacher's draws are read, not made again.
    monkeypatch.setattr("flashwam.pipeline.judge.window_draws", judge_twice := Counted())
    again, _ = judge_of(recipe, run)
    assert judge_twice.calls == 0
    assert all(torch.equal(a[n], b[n]) for a, b in zip(judge.reference, again.reference, strict=True) for n in a)
    # Others are.
    judge_of(recipe, run, draws=4)
    assert judge_twice.calls == 1
    monkeypatch.undo()
    told = judge(student.eval(), recipe.streams, place=tmp_path / "again", tells=True).measures
    assert {f"judged/{name}": pytest.approx(value, rel=1e-4) for name, value in told.items()} == {
        name: value for name, value in last.items() if name != "step"
    }


class Counted:
    def __init__(self):
        self.calls = 0

    def __call__(self, wam, samplers, batch, *, draws, **others):
        self.calls += 1
        rows = batch.size * draws
        return [{name: torch.zeros(rows, c, wam.chunk_frames, h, w) for name, (c, h, w) in wam.shapes.items()}]


def test_a_teacher_that_is_told_to_draw_otherwise_draws_anew(recipe, tmp_path, monkeypatch):
    prepare_data(recipe)
    teacher = shutil.copytree(TEACHER, tmp_path / "teacher")
    recipe = replace(recipe, wam=replace(recipe.wam, pretrained=str(teacher)))
    monkeypatch.setattr("flashwam.pipeline.judge.window_draws", drawn := Counted())
    model = load_wam(teacher)[0]
    parts = {"student": model, "teacher": model, "codec": Codec.load(teacher), "run": RunFolder(tmp_path)}
    for draws, shift in ((1, None), (1, None), (2, 3.0)):
        if shift is not None:
            path = teacher / "flashwam.json"
            told = json.loads(path.read_text())
            told["streams"]["action"]["shift"] = shift
            path.write_text(json.dumps(told))
        make_judge(recipe, recipe.distill, result="student", **parts)
        assert drawn.calls == draws


def test_every_control_and_some_places_of_a_chunk_are_measured(recipe, tmp_path):
    """With names that TensorBoard takes as they are, and nothing that does not change while a student is trained."""
    prepare_data(recipe)
    model = load_wam(TEACHER)[0]
    parts = {"student": model, "teacher": model, "codec": Codec.load(TEACHER), "run": RunFolder(tmp_path)}
    loop = replace(recipe.distill, judge=replace(recipe.distill.judge, episodes=0), keep_best=None)
    judge = make_judge(recipe, loop, result="student", **parts)
    told = judge(model, recipe.streams, place=tmp_path / "first", tells=True).measures
    controls = [name.replace(" ", "_") for name in judge.windows.names.names]
    assert len(controls) == 4
    listed = [name for name in told if "/" in name]
    for measure in ("error_teacher", "error_recorded", "variance_ratio"):
        assert [name for name in listed if name.startswith(f"{measure}/")] == [f"{measure}/{c}" for c in controls]
    assert not [name for name in listed if name.startswith("teacher_")]
    places = [name for name in listed if name.startswith("over_chunk/")]
    assert places[0] == "over_chunk/01"
    assert 1 < len(places) <= 6
    assert len(listed) == 3 * len(controls) + len(places)
    assert not [name for name in told if re.search(r"[^\w./-]", name)]
    # The most telling ones stay the first.
    assert next(iter(told)) == "all_error_teacher"


def test_a_few_places_of_a_long_chunk_are_told_and_names_stay_apart():
    found = {
        "over_chunk": [float(n) for n in range(48)],
        "error_recorded": [1.0, 2.0],
        "variance_ratio": [math.nan, 3.0],
    }
    names = ControlNames(names=("a b", "a/b"), units=("", ""))
    assert listed_measures(found, names) == {
        "error_recorded/0_a_b": 1.0,
        "error_recorded/1_a_b": 2.0,
        "variance_ratio/1_a_b": 3.0,
        **{f"over_chunk/{place:02d}": place - 1.0 for place in (1, 10, 20, 29, 39, 48)},
    }


def test_a_teacher_is_judged_by_what_was_recorded(recipe, tmp_path):
    loop = replace(
        recipe.train, steps=1, judge=replace(recipe.distill.judge, every=1, draws=2, episodes=0, nfe="2v/2a")
    )
    parts = {"student": load_wam(TEACHER)[0], "teacher": None, "codec": Codec.load(TEACHER), "run": RunFolder(tmp_path)}
    judge = make_judge(recipe, loop, result="teacher", **parts)
    told = judge(parts["student"], recipe.streams, place=tmp_path / "first", tells=True)
    assert told.measures["all_error_recorded"] > 0
    assert "all_error_teacher" not in told.measures
    assert set(told.pictures) == {"trajectories", "video"}


def test_data_without_held_out_episodes_are_refused(recipe, tmp_path):
    data = replace(recipe.data, source="lerobot", cameras=("a",), q01=(0.0,) * 30, q99=(1.0,) * 30)
    parts = {"student": load_wam(TEACHER)[0], "teacher": None, "codec": None, "run": RunFolder(tmp_path)}
    loop = replace(recipe.distill, judge=replace(recipe.distill.judge, episodes=0), keep_best=None)
    with pytest.raises(ValueError, match=r"judge measures on held-out episodes, and data\.held_out_every is null"):
        check_judge(replace(recipe, data=replace(data, held_out_every=None)), loop)
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        make_judge(replace(recipe, data=replace(data, root="nowhere")), loop, result="student", **parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("keep_best=same_way judge.draws=4", r"judge\.draws is 4, and 8 or more tell ways; set judge\.draws=8"),
        ("keep_best=student_between judge.draws=7", r"set judge\.draws=8"),
        ("keep_best=success judge.episodes=0", r"judge\.episodes is 0, .*judge\.episodes=5, or set keep_best to all_e"),
        ("keep_best=reach-wall_success", "measured are success, faucet-turn_success"),
        ("keep_best=teacher_between", "measured are all_error_teacher, video_error_teacher, .*, all_error_recorded"),
        ("keep_best=action_variance_ratio judge.draws=1", "one draw has no variance"),
        ("keep_best=video_sharpness_ratio", "measured are .*, video_decoded_sharpness_ratio, same_way"),
        ("keep_best=action_sharpness_ratio", "measured are .*, action_variance_ratio, video_decoded_error_teacher"),
    ],
)
def test_a_measure_of_the_best_that_can_never_be_there_is_refused_before_anything_is_made(changes, message):
    settings = [f"distill.{change}" for change in changes.split()]
    changed = load_recipe("metaworld/flash_wam", [*SETTINGS, *settings])
    with pytest.raises(ValueError, match=rf"keep_best is .*, which is never measured: .*{message}"):
        check_names(changed, "distill")


@pytest.mark.parametrize("keep_best", ["all_error_teacher", "same_way"])
def test_a_teachers_own_training_has_no_teacher_to_be_near_to(keep_best):
    changed = load_recipe("metaworld/teacher", ["train.judge={every: 2}", f"train.keep_best={keep_best}"])
    with pytest.raises(ValueError, match="this training has none; set keep_best to all_error_recorded"):
        check_names(changed, "train")
    check_names(load_recipe("metaworld/teacher", ["train.judge={}", "train.keep_best=all_error_recorded"]), "train")


def test_every_measure_of_draws_that_is_taken_is_measured(recipe, tmp_path):
    """And of those that are measured none is refused that says which of two models is better."""
    prepare_data(recipe)
    teacher = load_wam(TEACHER)[0]
    parts = {"teacher": teacher, "codec": Codec.load(TEACHER), "run": RunFolder(tmp_path)}
    loop = replace(recipe.distill, judge=replace(recipe.distill.judge, episodes=0), keep_best=None)
    judge = make_judge(recipe, loop, result="student", student=teacher, **parts)
    place = RunFolder(tmp_path).judged / "step_0"
    place.parent.mkdir(exist_ok=True)
    measured = {*judge(teacher, recipe.streams, place=place, tells=True).measures, *MEASURES_OF_WAYS}
    names = {f"{stream}_{end}" for stream in ("video", "action", "all") for end in ENDS} | measured
    taken = {name for name in names if "/" not in name and is_taken(recipe, loop, name)}
    assert taken == {name for name in measured if name.endswith((*ENDS, *MEASURES_OF_WAYS))}
    assert {"video_decoded_sharpness_ratio", "video_decoded_error_teacher"} <= taken


def test_windows_that_a_model_is_chosen_by_are_not_an_evaluations(recipe, tmp_path, monkeypatch):
    # One episode is held out, of few windows.
    monkeypatch.setattr("flashwam.evaluation.windows.EVALUATED_WINDOWS", 4)
    recipe = replace(recipe, data=replace(recipe.data, first_share=0.0))
    prepare_data(recipe)
    teacher = load_wam(TEACHER)[0]
    parts = {"teacher": None, "codec": Codec.load(TEACHER), "run": RunFolder(tmp_path)}
    loop = replace(recipe.distill, judge=replace(recipe.distill.judge, windows=8), keep_best=None)
    judge = make_judge(recipe, loop, result="student", student=teacher, **parts)
    evaluated = find_windows(recipe.data, judge.windows.norm, teacher, split="val", held_out=True).source
    chosen = [judge.windows.source.locate(number) for number in judge.batch.index.tolist()]
    assert len(chosen) == 8
    drawn = {evaluated.locate(number) for number in range(4)}
    assert not {*chosen} & drawn
    assert {judge.windows.source.locate(number) for number in range(8)} & drawn


ENDS = ("error_teacher", "error_expert", "error_recorded", "variance_ratio", "sharpness_ratio")


def is_taken(recipe, loop, name):
    try:
        loop = replace(loop, keep_best=name)
        check_judge(replace(recipe, distill=loop), loop)
    except ValueError:
        return False
    return True


def test_pictures_that_nothing_decodes_are_no_measure_of_the_best(recipe, tmp_path, monkeypatch):
    changed = replace(recipe, distill=replace(recipe.distill, keep_best="video_decoded_sharpness_ratio"))
    check_pictures(changed, changed.distill, Codec.load(TEACHER))
    monkeypatch.setattr("flashwam.pipeline.judge._pictures", lambda recipe, loop, codec: None)
    with pytest.raises(ValueError, match=r"never measured: .* has no autoencoder that decodes video"):
        pipeline.distill(changed, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ways_that_the_teachers_draws_do_not_have_are_refused_at_the_start(recipe, tmp_path, monkeypatch):
    prepare_data(recipe)
    monkeypatch.setattr("flashwam.pipeline.judge.window_draws", Counted())
    loop = replace(recipe.distill, keep_best="same_way")
    parts = {"teacher": load_wam(TEACHER)[0], "codec": Codec.load(TEACHER), "run": RunFolder(tmp_path)}
    with pytest.raises(
        ValueError, match="on the judge's 2 windows the teacher's draws fall apart nowhere; raise judge"
    ):
        make_judge(recipe, loop, result="student", student=load_wam(TEACHER)[0], **parts)


def test_draws_that_decide_for_no_way_say_so():
    assert set(_undecided({"split": 0.5, "student_between": 1.0})) == {"same_way"}
    assert _undecided({"split": 0.5, "same_way": 1.0}) == _undecided({"split": 0.0}) == _undecided({}) == {}


def test_recordings_are_not_driven(recipe):
    data = replace(recipe.data, source="lerobot", cameras=("a",))
    with pytest.raises(ValueError, match=r"judge\.episodes is 1, but the data are recordings"):
        check_judge(replace(recipe, data=data), recipe.distill)


def test_samples_from_elsewhere_are_not_judged(recipe, tmp_path):
    with pytest.raises(ValueError, match="the samples come from elsewhere"):
        distill(recipe, run_dir=tmp_path / "run", source=object())
