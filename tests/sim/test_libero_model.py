# SPDX-License-Identifier: Apache-2.0
"""One command drives a model in LIBERO: the traffic of a served one, results beside the model's own, all gone on with.

Random weights of the released layouts, and LIBERO's stand-in.
"""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("websockets")
from libero_stand_ins import libero_stand_in
from safetensors.torch import load_file, save_file
from tiny_released import save_released

from flashwam.cli import main
from flashwam.evaluation.policy import load_model
from flashwam.run.evaluation import read_evaluation
from flashwam.serve.model import load_served
from flashwam.serve.options import ServerOptions
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession
from flashwam.student import load_wam, save_wam
from flashwam.system.paths import ASSETS
from flashwam.wam.lingbot_va.codec import LingBotCodec
from flashwam.wam.lingbot_va.presets import preset

PROMPTS = ("do 0", "do 1", "do 2", "")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A released checkpoint."""
    return save_released(tmp_path_factory.mktemp("checkpoints") / "lingbot-va-posttrain-libero-long", PROMPTS)


@pytest.fixture
def model(released, tmp_path):
    """A copy of it that results may lie in."""
    return shutil.copytree(released, tmp_path / "checkpoints" / released.name)


@pytest.fixture
def suite(monkeypatch, tmp_path):
    """The stand-in for LIBERO, and what its sessions are asked."""
    asked, handle = [], PolicySession.handle

    def listening(self, request):
        asked.append(request)
        return handle(self, request)

    monkeypatch.setattr(PolicySession, "handle", listening)
    monkeypatch.chdir(tmp_path)
    stand_in = libero_stand_in(monkeypatch, tmp_path, size=128)
    stand_in.asked = asked
    return stand_in


def driven(*words, nfe=("1v/1a",)):
    steps = [word for each in nfe for word in ("--nfe", each)]
    own = ["--sim", "libero", "--suite", "libero_10", "--max-steps", "20", "--device", "cpu"]
    return main(["evaluate", *map(str, words), *own, *steps])


def told(messages):
    """Messages by what a client's have: keys, and shapes of what they hold."""

    def shape(value):
        if isinstance(value, np.ndarray):
            return (value.dtype.str, *value.shape)
        return {key: shape(one) for key, one in value.items()} if isinstance(value, dict) else value

    return [
        {key: [shape(one) for one in value] if isinstance(value, list) else shape(value) for key, value in one.items()}
        for one in messages
    ]


def test_the_traffic_is_the_published_client_s_and_that_of_a_served_model(model, suite):
    assert driven(model, "--tasks", "1", "--episodes", "1") == 0
    picture = ("|u1", 128, 128, 3)
    seen = {"observation.images.agentview_rgb": picture, "observation.images.eye_in_hand_rgb": picture}
    begin, chunk, cache = told(suite.asked)[:3]
    assert begin.keys() == {"reset", "prompt", "seed"}
    assert (begin["reset"], begin["prompt"]) == (True, "do 1")
    assert chunk == {"obs": seen}
    assert cache == {"obs": [seen] * 12, "compute_kv_cache": True, "imagine": False, "state": ("<f4", 7, 4, 4)}
    # Twelve controls of the first chunk, whose first frame is padding; then eight of sixteen to the limit.
    assert [sorted(one) for one in told(suite.asked)] == [sorted(one) for one in (begin, chunk, cache, chunk)]
    assert [control.shape for control in suite.controls] == [(7,)] * 20

    one, first = list(suite.asked), np.array(suite.controls)
    del suite.asked[:], suite.controls[:]
    with serving(load_served(model, nfe="1v/1a", preset="libero"), ServerOptions(port=0)) as server:
        served = ["evaluate", "--server", server.url, "--sim", "libero", "--suite", "libero_10", "--max-steps", "20"]
        assert main([*served, "--tasks", "1", "--episodes", "1", "--out", str(suite.out)]) == 0
    np.testing.assert_array_equal(np.array(suite.controls), first)
    assert [json.dumps(each, default=np.ndarray.tolist) for each in suite.asked] == [
        json.dumps(each, default=np.ndarray.tolist) for each in one
    ]


def released_student(released, folder):
    """A step of the Flash-WAM release: two students, and no autoencoder."""
    step = folder / "step_5000"
    for role in ("online_student", "target_student"):
        shutil.copytree(released / "transformer", step / role / "transformer")
    return step, ["--base", released]


def distilled(released, folder):
    """A run's student, whose codec names the checkpoint."""
    wam, _ = load_wam(released, preset="libero")
    run = folder / "pairs"
    info = {"name": "pairs", "steps": 9, "teacher": str(released)}
    save_wam(run / "student", wam, preset("libero").released_student, kind="student", info=info)
    LingBotCodec.from_pretrained(released, "libero").save(run / "student", checkpoint=released)
    return run, []


@pytest.mark.parametrize("layout", [released_student, distilled])
def test_a_student_is_driven_by_its_name_alone(released, suite, tmp_path, capsys, layout):
    folder, more = layout(released, tmp_path)
    assert driven(folder, *more, "--tasks", "0", "--episodes", "1", "--json", "-", nfe=()) == 0
    (result,) = json.loads(capsys.readouterr().out)
    (file,) = (folder / "evaluations").glob("*.json")
    name = "pairs" if layout is distilled else "step_5000"
    assert file.name == f"step{9 if layout is distilled else 0}_1v-1a_libero_10_lingbot_va_seed0.json"
    assert (result["run"], result["kind"], result["nfe"]) == (name, "student", {"video": 1, "action": 1})
    assert result["label"] == f"{name} 1v/1a libero_10"
    options = {} if layout is distilled else {"preset": "libero"}
    weights = load_model(folder, **options).fingerprint
    assert result["model"]["weights"] == result["asked"]["settings"]["model"] == weights
    assert result["model"]["streams"]["video"]["function"] == {"name": "lcm", "sigma_data": 0.5}
    assert result["model"]["preset"] == options.get("preset")
    assert result["simulator"]["convention"]["name"] == "lingbot_va*"
    assert (folder / "evaluations" / result["simulator"]["films"]["do_0"]).is_file()
    assert (result["latency"]["chunk_ms"] > 0, len(result["parameters"])) == (True, 1)
    if layout is distilled:
        assert "| 1v/1a | own, lingbot_va* | do_0 | " in (folder / "student" / "README.md").read_text()


def test_every_setting_is_gone_on_with_by_episode(model, suite, capsys):
    suite.stops.add((1, 0))
    words = [model, "--tasks", "0,1", "--episodes", "2"]
    assert driven(*words, nfe=("1v/1a", "2v/1a")) == 130
    assert suite.driven == [(0, 0), (0, 1)]
    suite.stops.clear()
    assert driven(*words, "--idle-steps", "3") == 2
    assert "was begun with other convention" in capsys.readouterr().err
    assert driven(*words, nfe=("1v/1a", "2v/1a")) == 0
    assert suite.driven == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (1, 0), (1, 1)]
    evaluations = model / "evaluations"
    found = [read_evaluation(file) for file in sorted(evaluations.glob("*.json"))]
    assert [one.setting for one in found] == ["1v/1a", "2v/1a"]
    assert [one.outcomes for one in found[0].tasks.values()] == [(1, 1), (0, 0)]
    assert not list((evaluations / "unfinished").iterdir())
    # Once more: read, and not run again.
    assert driven(*words) == 0
    assert len(suite.driven) == 8


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (["--idle-steps", "3"], "(idle_steps: '5' then, '3' now)"),
        (["--preset", "libero_first"], "(preset: 'libero' then, 'libero_first' now)"),
        (["--episodes", "2"], "episodes: 1 then, 2 now"),
    ],
)
def test_what_was_measured_otherwise_is_refused(model, suite, capsys, changed, fault):
    words = [model, "--tasks", "0", "--episodes", "1"]
    assert driven(*words) == 0
    assert driven(*words, *changed) == 2
    assert fault in capsys.readouterr().err
    assert driven(*words, *changed, "--out", suite.out) == 0


def test_other_weights_are_refused_before_and_after_a_stop(model, suite, capsys):
    words = [model, "--tasks", "0", "--episodes", "2"]
    suite.stops.add((0, 1))
    assert driven(*words) == 130
    other = save_released(model.parent / "other", PROMPTS, layers=2)
    shutil.move(model / "transformer", model / "before")
    shutil.copytree(other / "transformer", model / "transformer")
    suite.stops.clear()
    assert driven(*words) == 2
    assert "was begun with other model" in capsys.readouterr().err
    shutil.rmtree(model / "transformer")
    shutil.move(model / "before", model / "transformer")
    assert driven(*words) == 0
    shutil.rmtree(model / "transformer")
    shutil.copytree(other / "transformer", model / "transformer")
    assert driven(*words) == 2
    assert "with other weights than this model's" in capsys.readouterr().err


def test_another_autoencoder_is_refused_after_a_stop(model, suite, capsys):
    """The model's own words do not tell it."""
    words = [model, "--tasks", "0", "--episodes", "2"]
    suite.stops.add((0, 1))
    assert driven(*words) == 130
    suite.stops.clear()
    (weights,) = (model / "vae").glob("*.safetensors")
    before = weights.read_bytes()
    save_file({name: 0.9 * x for name, x in load_file(weights).items()}, weights)
    assert driven(*words) == 2
    assert "was begun with other settings" in capsys.readouterr().err
    weights.write_bytes(before)
    assert driven(*words) == 0
    assert suite.driven == [(0, 0), (0, 1)]


def test_how_it_is_drawn_is_named(model, suite, capsys):
    words = [model, "--tasks", "0", "--episodes", "1", "--temperature", "0.5", "--dtype", "float32", "--json", "-"]
    assert driven(*words) == 0
    (result,) = json.loads(capsys.readouterr().out)
    (file,) = (model / "evaluations").glob("*.json")
    assert file.name == "step0_1v-1a_libero_10_lingbot_va_t0.5_seed0.json"
    assert result["label"] == f"{model.name} 1v/1a t0.5 libero_10"
    assert (result["sampler"], result["model"]["dtype"], result["kind"]) == ("t0.5", "float32", "teacher")


def test_a_comparison_takes_it(model, suite, tmp_path, capsys):
    words = [model, "--tasks", "0,1", "--episodes", "2"]
    assert driven(*words) == driven(*words, "--convention", "common") == 0
    capsys.readouterr()
    assert main(["compare", str(model), "--out", str(tmp_path / "page"), "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    expected = [(f"{model.name} 1v/1a ({name}*)", [0.5]) for name in ("common", "lingbot_va")]
    assert sorted((row["label"], row["seed_rates"]) for row in rows) == expected


def test_a_checkpoint_that_does_not_say_how_it_is_sampled_is_the_newest_kind(model, suite, caplog):
    assert driven(model, "--tasks", "0", "--episodes", "1") == 0
    assert "does not say how it is sampled: it is taken for a checkpoint of preset libero" in caplog.text
    caplog.clear()
    assert driven(model, "--tasks", "0", "--episodes", "1", "--preset", "libero") == 0
    assert suite.driven == [(0, 0)]
    assert "taken for" not in caplog.text


@pytest.mark.parametrize(
    ("folder", "fault"),
    [
        (
            ASSETS / "libero_teacher",
            "by plain flashwam evaluate, without --sim and --suite; such as --tasks libero_object_0",
        ),
        (ASSETS / "teacher", "take one that was trained on LIBERO's own pictures"),
        ("nowhere", "nowhere is missing: there is no such folder"),
        ("empty", "it holds nothing; expected a teacher, a student or their run"),
    ],
)
def test_a_model_of_other_pictures_is_refused(suite, tmp_path, capsys, folder, fault):
    (tmp_path / "empty").mkdir()
    assert driven(folder, "--tasks", "0", "--episodes", "1") == 2
    assert fault in capsys.readouterr().err
    assert not suite.driven
