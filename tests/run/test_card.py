# SPDX-License-Identifier: Apache-2.0
"""The card that is written about a model, and the files of it that are published."""

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard
from policy_toys import policy as fusion_policy
from policy_toys import specs
from tiny_models import tiny_wam

from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe
from flashwam.report.results import read_evaluations
from flashwam.run.card import model_card, renew_card, write_card
from flashwam.run.evaluation import Asked, Evaluation, TaskNumbers
from flashwam.run.recordings import OnRecordings, RecordingNumbers
from flashwam.student import load_wam, push_to_hub, save_wam
from flashwam.system.files import whole_folder
from flashwam.system.paths import ASSETS
from flashwam.wam.lingbot_va import LingBotVA
from flashwam.wam.lingbot_va.presets import preset

NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model() -> LingBotVA:
    return tiny_wam(latent_size=(8, 16), chunk_frames=4, window_chunks=29, patch_size=(1, 2, 2), action_dim=30)


@pytest.fixture
def student(model: LingBotVA, tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "student"
    info = {"name": "quick", "steps": 9, "teacher": "/data/models/robbyant/base"}
    save_wam(folder, model, preset("libero").released_student, kind="student", info=info)
    return folder


def test_card_of_a_student(student: Path) -> None:
    card = (student / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: flashwam\n")
    assert "distilled from `base` to few" in card
    assert "/data/" not in card
    assert "None is stated: nothing here says under which licence `base` is" in card
    assert 'load_wam("student")' in card
    assert "has the layout and keys of the original" in card
    assert "| video | `lcm` (sigma_data 0.5) | shift 5 | 1 |" in card
    assert "| action | `linear` | shift 0.05 | 1 |" in card
    assert "Success in closed loop is unknown" in card
    # At sigma = 1 and sigma_data = 0.5 the function is 0.647 x - 0.447 v, Euler's is x - v.
    assert "differs from it by +0.353 x -0.553 v" in card
    assert "action was distilled with its own function" not in card
    assert "- optimiser steps: 9\n" in card


def _recorded_run(place: Path, model: LingBotVA, base: str) -> Path:
    """A student of a teacher that was trained on one's own recordings from released weights; all in runs of theirs."""
    runs, changed = place / "runs", ["data.root=/home/me/data/towels", "data.tasks=[libero-long-lerobot]"]
    teacher = runs / "towels_teacher" / "teacher"
    recipe = load_recipe("libero/flash_wam", [*changed, f"wam.pretrained={place / base}", "name=towels_teacher"])
    info = {"name": "towels_teacher", "teacher": None, "recipe": plain(recipe)}
    save_wam(teacher, model, preset("libero").streams, kind="teacher", info=info)
    recipe = load_recipe("libero/flash_wam", [*changed, f"wam.pretrained={teacher}", "name=towels"])
    info = {"name": "towels", "teacher": str(teacher), "recipe": plain(recipe), "steps": 9}
    save_wam(runs / "towels" / "student", model, preset("libero").released_student, kind="student", info=info)
    return runs / "towels" / "student"


def test_card_of_a_student_of_ones_own_teacher_names_what_both_descend_from(model: LingBotVA, tmp_path: Path) -> None:
    student = _recorded_run(tmp_path, model, "checkpoints/lingbot-va-posttrain-libero-long")
    for place in (tmp_path / "runs" / "towels_teacher" / "teacher", tmp_path / "checkpoints"):
        # What was noted when it was saved needs no other folder.
        shutil.rmtree(place, ignore_errors=True)
    card = write_card(student).read_text()
    told = ModelCard(card).data
    base = "robbyant/lingbot-va-posttrain-libero-long"
    assert (told.license, told.base_model, told.datasets) == ("apache-2.0", base, ["robbyant/libero-long-lerobot"])
    assert (
        f"distilled from `towels_teacher` (which descends from [{base}](https://huggingface.co/{base})) to few" in card
    )
    assert f"`apache-2.0`, that of [{base}](https://huggingface.co/{base}), from which it was made." in card
    assert "- recorded episodes, LeRobot data sets of `towels`: `libero-long-lerobot`\n" in card
    assert "`observation.images.agentview_rgb`, `observation.images.eye_in_hand_rgb`, the first at 128 x 128" in card
    assert "- episodes held out: one in 20 of every set\n" in card
    assert str(tmp_path) not in card
    assert "/home/me" not in card


@pytest.mark.parametrize(
    ("base", "own_card", "expected"),
    [
        ("checkpoints/CogVideoX-5b", None, ("other", "cogvideox-license", "THUDM/CogVideoX-5b")),
        ("checkpoints/videovla", None, (None, None, "VideoVLA/VideoVLA_Cogvideobase_Pretrained")),
        ("checkpoints/mine", None, (None, None, None)),
        ("checkpoints/mine", '---\nlicense: "mit"\n---\n', ("mit", None, None)),
        ("models--lab--big/snapshots/1234", "---\nlicense: gpl-3.0\n---\n", ("gpl-3.0", None, "lab/big")),
        ("checkpoints/mine", "---\nlicense: [a, b]\nlicense: '\"\n---\n", (None, None, None)),
    ],
)
def test_a_licence_is_that_of_the_base_models_own_card_or_what_is_known_of_it(
    model: LingBotVA, tmp_path: Path, base: str, own_card: str | None, expected: tuple[str | None, ...]
) -> None:
    if own_card is not None:
        (tmp_path / base).mkdir(parents=True)
        (tmp_path / base / "README.md").write_text(own_card)
    card = (_recorded_run(tmp_path, model, base) / "README.md").read_text()
    told = ModelCard(card).data
    assert (told.license, told.license_name, told.base_model) == expected
    assert ("None is stated" in card) == (expected[0] is None)


def test_a_licence_that_was_stated_stays(student: Path) -> None:
    api = FakeApi()
    push_to_hub(student, "hf:lab/quick", api=api, license="cc-by-4.0")
    renew_card(student)
    card = (student / "README.md").read_text()
    assert ModelCard(card).data.license == "cc-by-4.0"
    assert 'load_wam("hf:lab/quick")' in card
    assert api.calls[1][1]["repo_id"] == "lab/quick"
    with pytest.raises(ValueError, match="license must read as in a model card's header"):
        push_to_hub(student, "lab/quick", api=api, license="all mine")
    (student / "README.md").write_text("Ask me before you use this.")
    with pytest.raises(ValueError, match=r"README\.md was not written by flashwam, .*: state the licence"):
        push_to_hub(student, "lab/quick", api=api, license="mit")


def test_a_model_that_an_earlier_version_saved_is_traced_when_it_is_pushed(model: LingBotVA, tmp_path: Path) -> None:
    student = _recorded_run(tmp_path, model, "checkpoints/lingbot-va-base")
    for folder in (student, tmp_path / "runs" / "towels_teacher" / "teacher"):
        info = json.loads((folder / "flashwam.json").read_text())
        del info["origin"]
        (folder / "flashwam.json").write_text(json.dumps(info))
    renew_card(student)
    assert ModelCard.load(student / "README.md").data.base_model is None
    push_to_hub(student, "lab/towels", api=FakeApi())
    assert ModelCard.load(student / "README.md").data.base_model == "robbyant/lingbot-va-base"


def test_card_has_what_was_measured_on_recordings(student: Path) -> None:
    numbers = RecordingNumbers(
        held_out=True,
        windows=32,
        episodes=61,
        draws=8,
        names=("x", "grip"),
        units=("mm", ""),
        by_control={"error_teacher": (2.0, 0.5), "error_recorded": (4.0, 1.0)},
        measures={"all_error_teacher": 0.25, "all_student_spread": 0.5, "all_teacher_spread": 1.0},
    )
    asked = Asked(
        tasks=(), episodes=0, closed_loop=False, recordings=OnRecordings(windows=32, draws=8, data="/home/me/monday")
    )
    one = Evaluation(
        run="quick", kind="student", step=9, nfe={"video": 1, "action": 2}, tasks={}, asked=asked, recordings=numbers
    )
    for seed, error in ((0, 0.25), (1, 0.75)):
        measured = replace(numbers, measures={**numbers.measures, "all_error_teacher": error})
        path = student.parent / "evaluations" / "recordings" / f"{seed}.json"
        replace(one, seed=seed, recordings=measured).write(path)
    card = write_card(student).read_text()
    on = "| 1v/2a | own | 32 windows of 61 held-out episodes of monday, 8 draws each |"
    assert f"{on} all | 0.5 | 1 | - | - | 0.25 |" in card
    assert f"{on} x, mm | 2 | - | 4 | - | - |" in card
    assert f"{on} grip | 0.5 | - | 1 | - | - |" in card
    assert "These weights were not evaluated in closed loop here." in card
    assert "its teacher's may have seen them. Distances to what was recorded do not tell" in card
    assert "Success in closed loop is unknown." in card
    assert "/home/me" not in card


def test_card_has_the_evaluations_of_these_weights(student: Path) -> None:
    folder = student.parent / "evaluations"
    folder.mkdir()
    numbers = {"episodes": 50, "success": 36, "wilson": [0.583, 0.825]}
    result = {
        "run": "quick",
        "kind": "student",
        "step": 9,
        "nfe": {"video": 1, "action": 2},
        "setting": "1v/2a",
        "sampler": "own",
        "seed": 4,
        "tasks": {"reach-wall": numbers},
        "overall": numbers,
    }
    (folder / "a.json").write_text(json.dumps(result))
    (folder / "b.json").write_text(json.dumps(result | {"step": 0, "setting": "7v/7a"}))
    (folder / "other.json").write_text(json.dumps(result | {"run": "slow", "setting": "8v/8a"}))
    (folder / "c.json").write_text(json.dumps(result | {"overall": None, "tasks": {}}))
    card = write_card(student).read_text()
    assert "| 1v/2a | own | reach-wall | 0.720 | 50 | [0.583, 0.825] |" in card
    assert "7v/7a" not in card
    assert "8v/8a" not in card
    assert "Measured on reach-wall alone" in card
    assert "seeds [4]" in card
    assert "unknown" not in card


def test_card_keeps_conventions_of_a_simulator_apart(student: Path) -> None:
    def told(name: str, success: int) -> Evaluation:
        numbers = TaskNumbers(episodes=10, success=success)
        more = {"simulator": {"name": "libero", "convention": {"name": name}}} if name else {}
        common = {"run": "quick", "kind": "student", "step": 9, "nfe": {"video": 1, "action": 1}, "more": more}
        return Evaluation(**common, tasks={"put-x": numbers}, overall=numbers)

    card = model_card(student, evaluations=[told("lingbot_va", 9), told("common", 3), told("", 5), told("common", 4)])
    lines = [line for line in card.splitlines() if "| put-x |" in line]
    assert [line.split(" | [")[0] for line in lines] == [
        "| 1v/1a | own | put-x | 0.500 | 10",
        "| 1v/1a | own, common | put-x | 0.350 | 20",
        "| 1v/1a | own, lingbot_va | put-x | 0.900 | 10",
    ]


def test_card_keeps_conventions_of_one_name_apart(student: Path) -> None:
    def told(seed: int, steps: int, success: int) -> Evaluation:
        numbers = TaskNumbers(episodes=10, success=success)
        convention = {"name": "lingbot_va*", "idle_steps": 10, "max_steps": steps}
        more = {"simulator": {"name": "libero", "suite": "libero_10", "convention": convention}}
        common = {"run": "quick", "kind": "student", "step": 9, "nfe": {"video": 1, "action": 1}, "more": more}
        return Evaluation(**common, tasks={"put-x": numbers}, overall=numbers, seed=seed)

    card = model_card(student, evaluations=[told(0, 100, 1), told(1, 1200, 9)])
    lines = [line.split(" | [")[0] for line in card.splitlines() if "| put-x |" in line]
    assert sorted(lines) == [
        "| 1v/1a | own, lingbot_va*, max_steps 100 | put-x | 0.100 | 10",
        "| 1v/1a | own, lingbot_va*, max_steps 1200 | put-x | 0.900 | 10",
    ]


def test_card_of_a_teacher(model: LingBotVA, tmp_path: Path) -> None:
    save_wam(tmp_path / "teacher", model, preset("libero").streams, kind="teacher")
    card = model_card(tmp_path / "teacher")
    assert "| video | shift 5 | 20 | 5 |" in card
    assert "consistency function" not in card
    with pytest.raises(FileNotFoundError, match=r"flashwam\.json"):
        model_card(tmp_path)


def test_card_of_a_folder_that_is_being_built_has_its_final_name(model: LingBotVA, tmp_path: Path) -> None:
    with whole_folder(tmp_path / "base") as building:
        save_wam(building, model, preset("libero").streams, kind="teacher")
    card = (tmp_path / "base" / "README.md").read_text()
    assert "# base\n" in card
    assert 'load_wam("base")' in card
    assert building.name not in card


def test_a_card_that_somebody_else_wrote_is_left_as_it_is(student: Path, caplog: pytest.LogCaptureFixture) -> None:
    card = student / "README.md"
    ours = card.read_text()
    card.write_text("Ask me before you use this.")
    with caplog.at_level("INFO"):
        renew_card(student)
    assert card.read_text() == "Ask me before you use this."
    assert "not written by flashwam" in caplog.text
    # An older version's, of a folder that had not got its name yet.
    card.write_text('load_wam(".beside-student")')
    renew_card(student)
    assert card.read_text() == ours


def test_a_card_that_cannot_be_made_loses_no_model(
    student: Path, model: LingBotVA, caplog: pytest.LogCaptureFixture
) -> None:
    folder = student.parent / "evaluations"
    folder.mkdir()
    (folder / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not JSON"):
        write_card(student)
    before = (student / "README.md").read_text()
    save_wam(student, model, preset("libero").released_student, kind="student", info={"steps": 10})
    assert load_wam(student)[1].steps == 10
    assert (student / "README.md").read_text() == before
    assert "was not written anew" in caplog.text
    renew_card(student.parent)
    assert not (student.parent / "README.md").exists()


def test_the_shipped_teachers_card_tells_what_the_benchmark_measured() -> None:
    evaluations = read_evaluations(Path(__file__).resolve().parents[2] / "analysis" / "results" / "full")
    card = (ASSETS / "teacher" / "README.md").read_text()
    assert card == model_card(ASSETS / "teacher", evaluations=evaluations)
    assert "| full | own | all | 0.881 | 750 |" in card


def test_a_card_of_evaluations_that_lie_elsewhere_is_not_written_anew_without_them(student: Path) -> None:
    told = Evaluation(
        run="quick",
        kind="student",
        step=9,
        nfe={"video": 1, "action": 1},
        tasks={"reach-wall": TaskNumbers(episodes=50, success=36)},
        overall=TaskNumbers(episodes=50, success=36),
    )
    card = write_card(student, evaluations=[told]).read_text()
    assert "| 1v/1a | own | reach-wall | 0.720 | 50 |" in card
    renew_card(student)
    assert (student / "README.md").read_text() == card
    assert "not evaluated" in write_card(student, evaluations=[]).read_text()


class FakeApi:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))

    def upload_folder(self, **options: Any) -> str:
        folder = Path(options["folder_path"])
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        self.calls.append(("upload_folder", {**options, "files": files}))
        return "commit"


def test_push_to_hub(student: Path) -> None:
    api = FakeApi()
    (student / "README.md").unlink()
    assert push_to_hub(student, "lab/quick", api=api, private=True, revision="v1", create_pr=True) == "commit"
    (first, created), (second, uploaded) = api.calls
    assert (first, second) == ("create_repo", "upload_folder")
    assert created == {"repo_id": "lab/quick", "repo_type": "model", "private": True, "exist_ok": True}
    assert uploaded["files"] == [
        "README.md",
        "flashwam.json",
        "transformer/config.json",
        f"transformer/{NAME}",
        "wam.json",
    ]
    assert (uploaded["repo_id"], uploaded["revision"], uploaded["create_pr"]) == ("lab/quick", "v1", True)
    assert uploaded["commit_message"] == "Upload student"
    for wrong in ("quick", "a/b/c", "/b"):
        with pytest.raises(ValueError, match="owner/name"):
            push_to_hub(student, wrong, api=api)
    with pytest.raises(FileNotFoundError, match=r"flashwam\.json"):
        push_to_hub(student.parent, "lab/quick", api=api)


def test_a_policy_without_a_transformer_of_its_own_is_pushed_too(tmp_path: Path) -> None:
    api, folder = FakeApi(), tmp_path / "swift"
    save_wam(folder, fusion_policy(), specs(), kind="teacher", info={"name": "swift"})
    assert push_to_hub(folder, "lab/swift", api=api) == "commit"
    assert {"flashwam.json", "model.safetensors", "wam.json"} < set(api.calls[1][1]["files"])
    (folder / "wam.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"wam\.json is missing: expected a model's folder"):
        push_to_hub(folder, "lab/swift", api=api)


def test_what_is_asked_of_the_hub_exists_there(student: Path) -> None:
    api = FakeApi()
    push_to_hub(student, "lab/quick", api=api)
    for name, asked in api.calls:
        known = inspect.signature(getattr(HfApi, name)).parameters
        assert set(asked) - {"files"} <= set(known)


def test_a_model_pushes_itself(model: LingBotVA) -> None:
    api = FakeApi()
    model.push_to_hub("lab/base", api=api)
    uploaded = api.calls[1][1]
    assert uploaded["files"] == ["transformer/config.json", f"transformer/{NAME}", "wam.json"]
    assert uploaded["commit_message"] == "Upload LingBot-VA"
