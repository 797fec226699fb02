# SPDX-License-Identifier: Apache-2.0
"""The files that an evaluation leaves behind; the simulator's part is made up."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tiny_models import tiny_codec, tiny_wam

from flashwam.core.noise import NoiseSchedule
from flashwam.core.sampler_name import sampler_name
from flashwam.core.streams import StreamSpec
from flashwam.evaluation import local
from flashwam.evaluation.local import evaluate
from flashwam.evaluation.policy import load_policy
from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe, to_yaml
from flashwam.report.results import pool_evaluations
from flashwam.run.evaluation import read_run
from flashwam.run.folder import prepare_run
from flashwam.run.model_info import ModelInfo
from flashwam.sim.closed_loop import TaskResult
from flashwam.student import save_wam
from flashwam.system.paths import ASSETS
from flashwam.system.tensor_file import load_tensors, read_header, write_tensors


@pytest.fixture
def student(tmp_path, monkeypatch):
    """A student in its run, whose third episode of four fails."""

    def run_task(wam, samplers, codec, task, *, episodes, seed):
        success = tuple(number != 2 for number in range(episodes))
        return TaskResult(
            task=task,
            multimodal=True,
            success=success,
            ways=(-1, 0, 1, 1),
            commitment=0.75,
            steps=(4,) * episodes,
            scenes=tuple(range(7, 7 + episodes)),
            chunks=2,
            motion=(0.12345, float("nan"), 0.5, 0.5),
        )

    monkeypatch.setattr(local, "run_task", run_task)
    folder = tmp_path / "run" / "student"
    streams = {name: StreamSpec(name=name, schedule=NoiseSchedule(1.0)) for name in ("video", "action")}
    recipe = plain(load_recipe("flash_wam", ["data.tasks=[reach-wall]", f"data.root={tmp_path / 'none'}", "seed=5"]))
    told = {"name": "quick", "steps": 9, "teacher": str(tmp_path / "teacher"), "recipe": recipe}
    save_wam(folder, tiny_wam(attention_head_dim=32), streams, kind="student", info=told)
    tiny_codec().save(folder)
    return folder


def test_nothing_is_written_into_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "libero_teacher"):
        shipped = load_policy(ASSETS / name)
        assert shipped.evaluations == Path("runs/shipped") / name / "evaluations"
    (tmp_path / "link").symlink_to(ASSETS / "libero_teacher")
    assert load_policy("link").evaluations == shipped.evaluations


def test_an_evaluation_is_written_as_it_is_returned(student):
    (result,) = evaluate(student, episodes=4, nfe=("1v/2a",), seed=1)
    path = student.parent / "evaluations" / "step9_1v-2a_own_seed1.json"
    assert json.loads(path.read_text()) == result
    policy = load_policy(student)
    settings = {"model": policy.fingerprint, **policy.said(policy.samplers("1v/2a"))}
    assert result["asked"] == {"tasks": ["reach-wall"], "episodes": 4, "closed_loop": True, "settings": settings}
    numbers = result["tasks"]["reach-wall"]
    assert (numbers["success"], numbers["outcomes"], numbers["motion"]) == (3, [1, 1, 0, 1], [0.1235, None, 0.5, 0.5])
    assert numbers["ways"] == {"-1": 1, "0": 1, "1": 2}
    assert (numbers["scenes"], numbers["taken"]) == ([7, 8, 9, 10], [-1, 0, 1, 1])
    assert (result["seed"], result["training_seed"], result["family"]) == (1, 5, "lingbot_va")
    assert result["overall"] == {key: numbers[key] for key in result["overall"]}
    (found,) = read_run(student.parent)
    assert (found.run, found.kind, found.step, found.stages) == ("quick", "student", 9, (("video",), ("action",)))
    assert found.chunk_ms > 0


def test_a_student_is_sampled_in_three_ways_each_a_file_of_its_own(student):
    """On the way its functions are linear, which unit amplitude leaves as they are."""
    own, euler, unit = (
        evaluate(student, episodes=4, nfe=("1v/1a",), **sampler)[0]
        for sampler in ({}, {"plain_euler": True}, {"unit_amplitude": True})
    )
    assert [one["sampler"] for one in (own, euler, unit)] == ["own", "euler", "unit"]
    assert [one["label"] for one in (own, euler, unit)] == ["quick 1v/1a", "quick 1v/1a euler", "quick 1v/1a unit"]
    names = {path.name for path in (student.parent / "evaluations").glob("*.json")}
    assert names == {f"step9_1v-1a_{sampler}_seed0.json" for sampler in ("own", "euler", "unit")}
    with pytest.raises(ValueError, match="ask for one"):
        evaluate(student, plain_euler=True, unit_amplitude=True)


def test_a_student_from_less_noise_is_an_evaluation_and_a_row_of_its_own(student):
    policy = load_policy(student)
    assert [s.temperature for s in policy.samplers("1v/1a", sampler="euler_t0.5").values()] == [0.5, 0.5]
    cool, own = (evaluate(student, episodes=4, nfe=("1v/1a",), **how)[0] for how in ({"temperature": 0.5}, {}))
    assert (cool["sampler"], cool["label"], own["sampler"]) == ("t0.5", "quick 1v/1a t0.5", "own")
    assert (student.parent / "evaluations" / "step9_1v-1a_t0.5_seed0.json").is_file()
    assert {row.label for row in pool_evaluations(read_run(student.parent))} == {"quick 1v/1a", "quick 1v/1a t0.5"}
    assert "| 1v/1a | t0.5 | reach-wall |" in (student / "README.md").read_text()
    assert policy.suffix("euler_left_arm-t0.5") == " euler left_arm-t0.5"
    assert (policy.suffix("own"), policy.suffix("unit")) == ("", " unit")
    frozen = policy.samplers("1v/1a", sampler=sampler_name(temperature={"action": 0}))
    assert {name: one.temperature for name, one in frozen.items()} == {"video": 1.0, "action": 0.0}
    with pytest.raises(ValueError, match=r"no such stream \['hand'\]"):
        evaluate(student, temperature={"hand": 0.5})
    with pytest.raises(ValueError, match="temperature must be a number from 0 to 10; got -1"):
        evaluate(student, temperature=-1)


def test_a_student_in_8_bit_numbers_is_an_evaluation_of_its_own_and_no_row_beside_the_exact_one(student):
    """Asked for, or as the recipe of the model says; reports compare methods by exact ones while there are any."""
    (rounded,) = evaluate(student, episodes=4, nfe=("1v/1a",), precision="fp8")
    assert (rounded["precision"], rounded["label"], rounded["sampler"]) == ("fp8", "quick 1v/1a fp8", "own")
    assert [row.label for row in pool_evaluations(read_run(student.parent))] == ["quick 1v/1a fp8"]
    (exact,) = evaluate(student, episodes=4, nfe=("1v/1a",))
    assert "precision" not in exact, "older files say nothing of it either"
    assert exact["parameters"] == rounded["parameters"]
    names = {path.name for path in (student.parent / "evaluations").glob("*.json")}
    assert names == {f"step9_1v-1a_{how}_seed0.json" for how in ("own", "own_fp8")}
    assert [row.label for row in pool_evaluations(read_run(student.parent))] == ["quick 1v/1a"]
    assert "| 1v/1a | own, fp8 | reach-wall | 0.750 | 4 |" in (student / "README.md").read_text()
    info = json.loads((student / "flashwam.json").read_text())
    info["recipe"]["rollout"] = {"precision": "fp8"}
    (student / "flashwam.json").write_text(json.dumps(info))
    assert evaluate(student, episodes=4, nfe=("1v/1a",)) == [rounded]
    with pytest.raises(ValueError, match="precision must be one of own, fp8; got 'fp4'"):
        evaluate(student, precision="fp4")


@pytest.mark.parametrize("temperature", [1, {"video": 1.0}, {"video": 1.0, "action": 1.0}])
def test_a_temperature_that_a_model_has_anyway_is_its_own(student, temperature):
    (told,) = evaluate(student, nfe=["1v/1a"], temperature=temperature)
    assert told["sampler"] == "own"
    (partly,) = evaluate(student, nfe=["1v/1a"], temperature={"video": 1.0, "action": 0.5})
    assert partly["sampler"] == "action-t0.5"


def test_a_setting_is_measured_once_however_it_is_written(student):
    told = evaluate(student, nfe=["1a/1v", "01v/1a", "1v/1a"])
    assert [one["setting"] for one in told] == ["1v/1a"]


def test_a_task_named_twice_is_refused(student):
    with pytest.raises(ValueError, match="tasks must be different names; got reach-wall, reach-wall"):
        evaluate(student, nfe=["1v/1a"], tasks=["reach-wall", "reach-wall"])


def test_the_models_card_tells_of_it(student):
    assert "not evaluated" in (student / "README.md").read_text()
    for seed in (0, 1):
        evaluate(student, episodes=4, seed=seed)
    card = (student / "README.md").read_text()
    assert "| 1v/1a | own | reach-wall | 0.750 | 8 | [0.409, 0.929] |" in card
    assert "Evaluation seeds [0, 1]" in card


def test_the_card_is_left_where_the_evaluation_goes_elsewhere(student, tmp_path):
    card = student / "README.md"
    card.unlink()
    evaluate(student, episodes=4, out=tmp_path / "elsewhere")
    assert not card.exists()


def test_a_card_that_fails_loses_no_evaluation(student, caplog):
    (student / "README.md").unlink()
    (student / "README.md").mkdir()
    (result,) = evaluate(student, episodes=4, nfe=("1v/1a",))
    assert [found.to_json() for found in read_run(student.parent)] == [result]
    assert "was not written anew" in caplog.text


def test_without_steps_a_model_is_measured_at_its_recipe_s(student):
    assert [result["setting"] for result in evaluate(student, episodes=1, closed_loop=False)] == ["1v/1a", "1v/2a"]


def test_a_finished_run_is_measured_at_the_steps_that_it_has_taken_on(student):
    recipe = ModelInfo.read(student).recipe
    (student.parent / "recipe.yaml").write_text(to_yaml(recipe))
    prepare_run(replace(recipe, evaluate=replace(recipe.evaluate, nfe=("1v/1a", "3v/3a"))), student.parent)
    before = (student / "flashwam.json").read_bytes()
    assert [one["setting"] for one in evaluate(student, episodes=1, closed_loop=False)] == ["1v/1a", "3v/3a"]
    assert (student / "flashwam.json").read_bytes() == before


def test_an_open_loop_that_could_not_be_measured_is_added_once_it_can(student, monkeypatch):
    """The data were missing, or the teacher; nothing is driven again."""
    (first,) = evaluate(student, episodes=4, nfe=("1v/1a",))
    assert (first["open_loop"], first["strip"]) == (None, None)
    monkeypatch.setattr(local, "run_task", None)
    assert evaluate(student, episodes=4, nfe=("1v/1a",)) == [first]
    monkeypatch.setattr(local, "_open_loop", lambda policy, samplers, picture: ({"error": 0.5}, picture.name))
    told = {"open_loop": {"error": 0.5}, "strip": "step9_1v-1a_own_seed0.png"}
    (second,) = evaluate(student, episodes=4, nfe=("1v/1a",))
    assert second == first | told
    monkeypatch.setattr(local, "_open_loop", None)
    assert (
        evaluate(student, episodes=4, nfe=("1v/1a",))
        == [second]
        == [found.to_json() for found in read_run(student.parent)]
    )


def renamed(student, folder, *, name="quick", seed=0):
    """The student's twin, under a name and with weights of a seed."""
    told = json.loads((student / "flashwam.json").read_text()) | {"name": name}
    tiny_codec().save(folder)
    streams = {each: StreamSpec(name=each, schedule=NoiseSchedule(1.0)) for each in ("video", "action")}
    about = {key: told[key] for key in ("name", "steps", "teacher", "recipe")}
    save_wam(folder, tiny_wam(seed=seed, attention_head_dim=32), streams, kind="student", info=about)
    return folder


@pytest.mark.parametrize("sampled", [{}, {"precision": "fp8"}])
def test_a_result_of_one_model_is_not_given_out_as_another_s(student, tmp_path, sampled):
    ours = partial(evaluate, episodes=4, nfe=("1v/1a",), out=tmp_path / "results", **sampled)
    first = ours(student)
    with pytest.raises(ValueError, match=r"measurement of 'quick' with other weights than this model's; .*--out"):
        ours(renamed(student, tmp_path / "other" / "student", name="other", seed=1))
    assert ours(renamed(student, tmp_path / "copy" / "student")) == first


def test_weights_that_are_made_anew_are_not_taken_for_those_that_were_measured(student):
    (first,) = evaluate(student, episodes=4, nfe=("1v/1a",))
    renamed(student, student, seed=1)
    with pytest.raises(ValueError, match="with other weights"):
        evaluate(student, episodes=4, nfe=("1v/1a",))
    (path,) = (student.parent / "evaluations").glob("*.json")
    assert json.loads(path.read_text()) == first


def test_an_older_result_that_does_not_tell_its_weights_is_of_its_name_s_model(student, tmp_path):
    first = evaluate(student, episodes=4, nfe=("1v/1a",), out=tmp_path)
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    del content["asked"]["settings"]
    path.write_text(json.dumps(content))
    assert evaluate(student, episodes=4, nfe=("1v/1a",), out=tmp_path)[0]["tasks"] == first[0]["tasks"]
    other = renamed(student, tmp_path / "other" / "student", name="other")
    with pytest.raises(ValueError, match="a measurement of 'quick', not of 'other'"):
        evaluate(other, episodes=4, nfe=("1v/1a",), out=tmp_path)


def test_an_evaluation_that_was_stopped_goes_on_with_the_next_task(student, monkeypatch):
    run_task, driven = local.run_task, []

    def stopped(wam, samplers, codec, task, **options):
        if driven == ["reach-wall"]:
            driven.append("stopped")
            raise KeyboardInterrupt
        driven.append(task)
        return run_task(wam, samplers, codec, task, **options)

    monkeypatch.setattr(local, "run_task", stopped)
    asked = {"episodes": 4, "nfe": ("1v/2a",), "tasks": ["reach-wall", "button-wall"]}
    with pytest.raises(KeyboardInterrupt):
        evaluate(student, **asked)
    (result,) = evaluate(student, **asked)
    assert driven == ["reach-wall", "stopped", "button-wall"]
    assert list(result["tasks"]) == ["reach-wall", "button-wall"]
    assert result["overall"]["episodes"] == 8
    assert not (student.parent / "evaluations" / "unfinished" / "step9_1v-2a_own_seed0").exists()


def _edited(path, *keys, value):
    told = json.loads(path.read_text())
    place = told
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("flashwam.json", ("streams", "action", "shift"), 3.0),
        ("flashwam.json", ("streams", "video", "consistency"), {"name": "lcm"}),
        ("wam.json", ("window_chunks",), 1),
        ("codec.json", ("actions", "clip"), 1.25),
    ],
)
def test_the_same_weights_told_to_draw_otherwise_are_measured_elsewhere(student, tmp_path, file, keys, value):
    asked = {"episodes": 4, "nfe": ("1v/1a",)}
    first = evaluate(student, **asked)
    _edited(student / file, *keys, value=value)
    with pytest.raises(ValueError, match=rf"under other settings \({file}: not the same as then\); .*--out"):
        evaluate(student, **asked)
    assert len(evaluate(student, **asked, out=tmp_path / "elsewhere")) == len(first)


def test_what_was_seen_through_another_autoencoder_is_measured_elsewhere(student, tmp_path):
    asked = {"episodes": 4, "nfe": ("1v/1a",)}
    evaluate(student, **asked)
    (path,) = (student / "vae").glob("*.safetensors")
    write_tensors(path, {name: x + 1 for name, x in load_tensors(path).items()}, metadata=read_header(path)[1])
    with pytest.raises(ValueError, match=r"under other settings \(vae/: not the same as then\)"):
        evaluate(student, **asked)
    evaluate(student, **asked, out=tmp_path / "elsewhere")


def test_what_a_model_was_trained_with_changes_no_measurement(student):
    first = evaluate(student, episodes=4, nfe=("1v/1a",))
    _edited(student / "flashwam.json", "streams", "action", "huber_c", value=0.5)
    assert evaluate(student, episodes=4, nfe=("1v/1a",)) == first


def test_scenes_are_those_of_the_recipe_unless_others_are_asked_for(student):
    _edited(student / "flashwam.json", "recipe", "evaluate", "seed", value=3)
    told = [evaluate(student, episodes=1, nfe=("1v/1a",), closed_loop=False, **given) for given in ({}, {"seed": 0})]
    assert [one["seed"] for (one,) in told] == [3, 0]
