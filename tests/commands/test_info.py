# SPDX-License-Identifier: Apache-2.0
import json
from configparser import ConfigParser
from pathlib import Path

import pytest
import torch

import flashwam.commands.installation
from flashwam.commands.describe import describe
from flashwam.commands.info import info_lines
from flashwam.commands.installation import installation
from flashwam.recipe.load import load_recipe
from flashwam.run.folder import prepare_run
from flashwam.student import save_wam
from flashwam.system.provenance import requirements, specifiers
from flashwam.wam.lingbot_va import LingBotVA

SMALL = {
    "patch_size": [1, 4, 4],
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "num_layers": 1,
    "ffn_dim": 32,
    "in_channels": 6,
    "out_channels": 6,
    "action_dim": 4,
    "text_dim": 8,
    "freq_dim": 16,
    "latent_size": [8, 8],
    "chunk_frames": 2,
    "actions_per_frame": 4,
    "window_chunks": 4,
}


@pytest.fixture
def student(tmp_path):
    model = LingBotVA.create(**SMALL)
    streams = load_recipe("metaworld/flash_wam").streams
    save_wam(tmp_path / "run" / "student", model, streams, kind="student", info={"steps": 12, "teacher": "the/teacher"})
    return tmp_path / "run" / "student", model


def test_installation_names_versions_and_device(monkeypatch):
    monkeypatch.setattr(flashwam.commands.installation, "_rendering", lambda: {"backend": "egl"})
    facts = installation()
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["device"]["type"] == ("cuda" if torch.cuda.is_available() else "cpu")
    json.dumps(facts)


def test_missing_extras_come_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(flashwam.commands.installation, "_rendering", lambda: {"backend": None})
    monkeypatch.setattr(
        flashwam.commands.installation, "package_version", lambda name: None if name in ("av", "matplotlib") else "1.0"
    )
    facts = installation()
    assert facts["missing"] == {"sim": ["av"], "data": ["av"], "report": ["matplotlib"]}
    assert facts["install"] == "pip install 'flashwam[sim,data,report]'"


def test_extras_are_those_of_the_installed_package(monkeypatch):
    """Nothing is listed by hand: what setup.cfg asks for is what is looked for."""
    setup = ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    for extra, asked in setup["options.extras_require"].items():
        lines += [f'{line}; extra == "{extra}"' for line in asked.split("\n") if line]
    known = {"flashwam": [line for line in lines if line]}
    monkeypatch.setattr("flashwam.system.provenance.requires", lambda name: known.get(name))
    needed = requirements("flashwam")
    assert needed.keys() == {None, *setup["options.extras_require"]}
    assert {"torch", "tqdm", "pyarrow", "transformers"} <= set(needed[None])
    assert needed["cogvideox"] == ("sentencepiece", "protobuf")
    assert installation()["packages"].keys() == set(needed[None])
    assert list(specifiers("flashwam", "libero")) == setup["options.extras_require"]["libero"].split()
    assert specifiers("flashwam", "none") == specifiers("no-such-distribution", "libero") == ()


def test_a_package_that_is_not_installed_asks_for_nothing():
    assert requirements("no-such-distribution") == {}


def test_absent_rendering_is_a_fact_and_not_an_error(monkeypatch):
    def nothing():
        raise RuntimeError("no OpenGL backend can render here: apt-get install libegl1")

    monkeypatch.setattr("flashwam.commands.installation.ensure_gl", nothing)
    rendering = flashwam.commands.installation._rendering()
    assert rendering["backend"] is None
    assert "libegl1" in rendering["reason"]


def test_student_folder_is_described(student):
    folder, model = student
    facts = describe(folder)
    assert (facts["kind"], facts["family"], facts["steps"]) == ("student", "lingbot_va", 12)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["streams"]["video"].startswith("lcm (sigma_data 0.5), shift 5, 1 step(s)")
    assert facts["streams"]["action"].startswith("linear, shift 1")
    text = "\n".join(info_lines(facts))
    assert "the/teacher" in text
    json.dumps(facts)


def test_run_folder_is_described_with_its_result(student):
    run = student[0].parent
    recipe = load_recipe("metaworld/flash_wam")
    fresh = prepare_run(recipe, run.parent / "fresh")
    assert describe(fresh)["state"] == "not begun"
    (fresh / "checkpoints" / "step_000200").mkdir(parents=True)
    assert describe(fresh)["state"] == "at step_000200"
    student[0].rename(fresh / "student")
    facts = describe(fresh)
    assert facts["state"] == "finished: student"
    assert facts["student"]["steps"] == 12
    assert facts["made_by"]["packages"]["torch"] == torch.__version__


def test_whatever_was_measured_of_a_run_is_listed(tmp_path):
    """Closed loops, worlds that did not wait, and recordings: one name may be that of several."""
    run = prepare_run(load_recipe("metaworld/flash_wam"), tmp_path / "run")
    names = ["step1_1v-1a", "real_time/step1_1v-1a", "recordings/step1_1v-1a", "recordings/step1_1v-1a_on_out"]
    for name in names:
        path = run / "evaluations" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (run / "evaluations" / "recordings" / "step1_1v-1a_trajectories.npz").touch()
    assert describe(run)["evaluations"] == names


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        describe(tmp_path / "none")
    (tmp_path / "photo.png").write_text("x")
    with pytest.raises(ValueError, match=r"photo\.png"):
        describe(tmp_path)
