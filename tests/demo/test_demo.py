# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from flashwam.demo import page, work
from flashwam.demo.jobs import preset_jobs
from flashwam.demo.place import Place
from flashwam.demo.presets import LATE_TASKS, PRESETS
from flashwam.demo.run import demo
from flashwam.recipe.load import load_recipe, to_yaml
from flashwam.run.folder import CARD_FILE, RunFolder
from flashwam.sim.tasks import get_task
from flashwam.system.paths import ASSETS
from flashwam.system.released import License


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return demo(preset="smoke", out=out).parent


def test_smoke_demo_leads_from_nothing_to_a_page_with_all_results(smoke):
    page = (smoke / "index.html").read_text()
    assert "not finished" not in page
    assert 'src="http' not in page
    assert "data:image/gif;base64," in page
    for label in ("teacher", "naive_lcm", "flash_wam"):
        assert label in page
    methods = PRESETS["smoke"].methods
    for method in methods:
        info = json.loads((smoke / "runs" / method / "student" / "flashwam.json").read_text())
        assert info["kind"] == "student"
        results = [json.loads(p.read_text()) for p in (smoke / "runs" / method / "evaluations").glob("*.json")]
        assert len(results) == 1 + (method in PRESETS["smoke"].cooler)
        for result in results:
            assert result["nfe"] == {"video": 1, "action": 1}
            assert result["overall"]["episodes"] == 6
            assert result["open_loop"]["action_error_teacher"] > 0
        card = (smoke / "runs" / method / "student" / CARD_FILE).read_text()
        assert "| 1v/1a | own | all |" in card
        assert 'load_wam("student")' in card
    timed = json.loads((smoke / "comparison" / "latency.json").read_text())
    assert timed["teacher 10v/10a"]["chunk_ms"] > timed["flash_wam 1v/1a"]["chunk_ms"] > 0
    assert {note["run"] for note in timed["models"].values()} == {f"../runs/{run}" for run in ("teacher", *methods)}
    rows = json.loads((smoke / "comparison" / "compare.json").read_text())["rows"]
    own = [row for row in rows if row["sampler"] == "own"]
    assert {row["label"] for row in own if row["latency"]} == set(timed) - {"models"}
    assert {row["label"] for row in own if row["kind"] == "teacher"} == {"teacher 10v/10a", "teacher 1v/1a"}
    assert {row["label"] for row in rows if row not in own} == {
        "teacher 10v/10a action-t0",
        "flash_wam 1v/1a action-t0",
    }


def test_a_finished_demo_is_read_again_not_run_again(smoke):
    jobs = smoke / "jobs"
    before = {path.name: path.stat().st_mtime_ns for path in jobs.glob("*.done")}
    demo(preset="smoke", out=smoke)
    assert before == {path.name: path.stat().st_mtime_ns for path in jobs.glob("*.done")}


def test_another_preset_in_the_same_folder_is_refused(smoke):
    with pytest.raises(ValueError, match="give another --out"):
        demo(preset="quick", out=smoke)


def test_a_family_without_a_small_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of .*cogvideox.*lingbot_va"):
        demo(preset="smoke", out=tmp_path / "out", family="other")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["lingbot_va", "cogvideox"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_runnable_list_of_jobs(preset, family, tmp_path):
    jobs = preset_jobs(PRESETS[preset], tmp_path, family=family)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for k, job in enumerate(jobs):
        assert set(job.after) <= set(names[:k])
    assert {"collect", "teacher", "latents", "evaluate/teacher_full_0", "evaluate/teacher_1v-1a_0"} <= set(names)


@pytest.mark.parametrize(("family", "settings"), [("lingbot_va", "1v-2a"), ("cogvideox", "2v-2a")])
def test_every_student_of_the_benchmark_is_driven_at_one_and_at_two_steps(family, settings, tmp_path):
    names = {job.name for job in preset_jobs(PRESETS["full"], tmp_path, family=family)}
    for method in PRESETS["full"].methods:
        for seed in PRESETS["full"].seeds:
            assert {f"evaluate/{method}_{seed}_1v-1a", f"evaluate/{method}_{seed}_{settings}"} <= names


def test_the_teacher_and_the_other_methods_are_driven_without_noise_of_the_actions_too(tmp_path):
    jobs = {job.name: job.kwargs for job in preset_jobs(PRESETS["quick"], tmp_path)}
    cooler = {name: told for name, told in jobs.items() if "temperature" in told}
    others = [name for name in PRESETS["quick"].methods if name != "pairs_cooled_actions"]
    students = {f"evaluate/{name}_0_1v-1a_cooler" for name in others}
    assert set(cooler) == {"evaluate/teacher_full_0_cooler", *students}
    for name, told in cooler.items():
        own = jobs[name.removesuffix("_cooler")]
        assert told == {**own, "temperature": {"action": 0.0}}


@pytest.mark.parametrize("family", ["lingbot_va", "cogvideox"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_control_is_driven_beside_the_students(preset, family, tmp_path):
    """The untrained teacher at all steps that students are driven at, random actions, and lcm at unit amplitude."""
    jobs = preset_jobs(PRESETS[preset], tmp_path, family=family)
    asked = [job.kwargs for job in jobs if job.name.startswith("evaluate/") and "nfe" in job.kwargs]
    teacher = [told for told in asked if told["checkpoint"].name == "teacher"]
    settings = {(nfe, told["seed"]) for told in asked if told not in teacher for nfe in told["nfe"]}
    assert settings <= {(nfe, told["seed"]) for told in teacher for nfe in told["nfe"]}
    assert {f"evaluate/random_{seed}" for seed in PRESETS[preset].seeds} <= {job.name for job in jobs}
    euler, unit = (sum(name in told for told in asked) for name in ("plain_euler", "unit_amplitude"))
    assert euler == unit
    assert bool(unit) == bool(PRESETS[preset].euler)


def test_the_pilot_drives_its_teacher_and_students_in_a_world_that_does_not_wait(tmp_path, monkeypatch):
    """One task as it stands and as it moves, by every clock of the preset."""
    pilot, asked = PRESETS["pilot"], []
    jobs = {job.name: job for job in preset_jobs(pilot, tmp_path) if job.name.startswith("late/")}
    assert len(jobs) == 2 + len(pilot.late)
    assert set(pilot.late) <= set(pilot.methods)
    assert {get_task(name).moving for name in LATE_TASKS} == {False, True}
    monkeypatch.setattr(work, "evaluate_real_time", lambda *args, **kwargs: asked.append((args, kwargs)))
    student = jobs["late/on_policy_1v-1a"]
    assert student.after == ("distill/on_policy_0",)
    student.function(**student.kwargs)
    (((checkpoint,), told),) = asked
    assert (checkpoint.name, told["nfe"], told["tasks"]) == ("on_policy", ("1v/1a",), LATE_TASKS)
    habits = {(clock.latency_ms, clock.meanwhile) for clock in told["clocks"]}
    assert habits == {(ms, habit) for ms in pilot.latencies for habit in ("hold", "go_on")} - {(0, "go_on")}


def test_the_benchmark_measures_what_it_promises():
    full = PRESETS["full"]
    assert len(full.seeds) >= 3
    assert {"naive_lcm", "flash_wam"} <= set(full.euler)
    assert {"naive_lcm", "flash_wam", "video_only", "video_only_reg", "linear_both", "best", "on_policy"} == set(
        full.methods
    )
    assert len(full.rates) >= 3
    assert 0 in full.curve


def test_the_shipped_teacher_is_taken_and_measured_on_the_demos_own_data(tmp_path):
    (job,) = (job for job in preset_jobs(PRESETS["quick"], tmp_path) if job.name == "teacher")
    job.function(**job.kwargs)
    taken, shipped = tmp_path / "runs" / "teacher" / "teacher", ASSETS / "teacher"
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (taken / weights).read_bytes() == (shipped / weights).read_bytes()
    assert "not evaluated in closed loop here" in (taken / CARD_FILE).read_text()
    told, before = (json.loads((folder / "flashwam.json").read_text())["recipe"] for folder in (taken, shipped))
    assert told["data"]["root"] == str(tmp_path / "data")
    assert told["data"]["episodes"] == 60
    assert told["train"] == before["train"]
    (trained,) = (job for job in preset_jobs(PRESETS["quick"], tmp_path, from_scratch=True) if job.name == "teacher")
    assert trained.weight > 100 * job.weight


def test_the_page_shows_worlds_that_did_not_wait_apart(tmp_path, monkeypatch):
    # The analysis of the recipe takes seconds and has tests of its own.
    monkeypatch.setattr(page, "recipe_analysis", lambda recipe: {})
    monkeypatch.setattr(page, "schedule_sections", lambda analysis, folder, why: [])
    place = Place(preset=PRESETS["pilot"], out=tmp_path)
    run = RunFolder(place.teacher_run)
    told = {"run": "teacher", "nfe": {"video": 1, "action": 1}, "tasks": {"press": {"episodes": 2, "success": 1}}}
    clock = {"latency_ms": 348.0, "meanwhile": "hold", "control_hz": 20.0, "patience": 4.0}
    for folder, result in ((run.evaluations, told), (run.real_time, {**told, "real_time": clock})):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.json").write_text(json.dumps(result))
    assert "A world that does not wait" in page.write_demo_page(place, "pilot", []).read_text()


def test_the_page_analyses_the_student_that_came_out_best_and_says_what_is_next(tmp_path, monkeypatch):
    analysed = []
    monkeypatch.setattr(page, "recipe_analysis", lambda recipe: {})
    monkeypatch.setattr(page, "schedule_sections", lambda analysis, folder, why: analysed.append((analysis, why)) or [])
    place = Place(preset=PRESETS["quick"], out=tmp_path)
    page.write_demo_page(place, "quick", [])
    for method, success in (("flash_wam", 1), ("pairs_cooled_actions", 2)):
        run = RunFolder(place.run(method, 0))
        run.evaluations.mkdir(parents=True)
        told = {
            "run": method,
            "nfe": {"video": 1, "action": 1},
            "tasks": {"press": {"episodes": 2, "success": success}},
        }
        (run.evaluations / "a.json").write_text(json.dumps(told))
        run.recipe.write_text(to_yaml(place.recipe(method)))
    text = page.write_demo_page(place, "quick", []).read_text()
    assert [analysis["recipe"] for analysis, _ in analysed] == ["flash_wam", "pairs_cooled_actions"]
    assert "once students have been driven" in analysed[0][1]
    assert "whose student came out best" in analysed[1][1]
    assert text.index("What to do next") > text.index("What came out")
    assert "flashwam demo --preset pilot" in text


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_what_follows_it(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_analysis", lambda place, best: [])
    text = page.write_demo_page(Place(preset=PRESETS[preset], out=tmp_path), preset, []).read_text()
    assert "What to do next" in text


def test_a_teacher_that_is_taken_over_keeps_its_licence(tmp_path):
    work.take_shipped(ASSETS / "teacher", tmp_path / "teacher", load_recipe("metaworld/teacher"))
    assert License.of_card(tmp_path / "teacher" / CARD_FILE) == License(identifier="apache-2.0")
