# SPDX-License-Identifier: Apache-2.0
"""A policy by recipe, from nothing to a served one-step student; how well it acts does not matter here."""

import json
from pathlib import Path

import pytest
import torch

from flashwam import pipeline
from flashwam.data.episodes import read_frames, video_path
from flashwam.data.privileged import privileged_path
from flashwam.evaluation.local import evaluate
from flashwam.recipe.load import load_recipe
from flashwam.student import load_wam
from flashwam.swiftvla.evaluation import evaluate_with_auxiliary, load_with_auxiliary
from flashwam.swiftvla.policy import FusionPolicy
from flashwam.swiftvla.tokens import TokenStore

pytestmark = pytest.mark.usefixtures("simulator")
TASK = "faucet-turn"
SMALL = [
    f"data.tasks=[{TASK}]",
    "data.multimodal_episodes=20",
    "data.processes=1",
    "autoencoder.steps=2",
    "autoencoder.width=16",
    "wam.config.trunk={width: 32, layers: 2, heads: 2, key_heads: 1}",
    "wam.config.expert_width=16",
    "train.steps=2",
    "train.batch_size=4",
    "train.options.provider.steps=2",
    "evaluate.episodes=1",
    "evaluate.open_loop_samples=8",
]


@pytest.fixture(scope="module")
def trained(two_way_episodes):
    root = two_way_episodes.parent
    judge = "train.judge={every: 2, windows: 2, draws: 2, episodes: 1, nfe: 1v/2a}"
    recipe = load_recipe("swiftvla/metaworld/full", [*SMALL, judge, f"data.root={root / 'data'}"])
    return root, pipeline.train(recipe, run_dir=root / "full")


def test_training_makes_what_is_missing_and_saves_the_stripped_policy(trained):
    root, teacher = trained
    repo = root / "data" / TASK
    assert privileged_path(repo, 19).is_file()
    assert TokenStore.load(repo.parent, "geometry").path(repo, 19).is_file()
    model, info = load_wam(teacher)
    assert (type(model), info.kind) == (FusionPolicy, "teacher")
    assert not [key for key in model.state_dict() if key.startswith(("show", "reconstruct", "trajectory"))]
    lines = [json.loads(line) for line in (root / "full" / "metrics.jsonl").read_text().splitlines()]
    (first,) = [line for line in lines if line["step"] == 1]
    assert {"reconstruction/auxiliary", "reconstruction/primary", "trajectory", "masked/primary"} <= set(first)


def test_it_is_judged_as_it_is_deployed_while_it_is_trained(trained):
    root, _ = trained
    lines = [json.loads(line) for line in (root / "full" / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if "judged/success" in line]
    assert [line["step"] for line in judged] == [0, 2]
    assert judged[-1]["judged/all_error_recorded"] > 0
    assert (root / "full" / "judged" / "step_2_trajectories.png").is_file()


def test_a_stripped_policy_is_driven_by_what_it_sees_reads_and_feels(trained, tmp_path):
    _, teacher = trained
    (result,) = evaluate(teacher, nfe=("1v/2a",), out=tmp_path)
    assert result["overall"]["episodes"] == 1
    assert result["nfe"] == {"video": 1, "action": 2}
    assert result["open_loop"]["action_error_expert"] > 0
    assert set(result["parameters"]) == {"encoder", "trunk", "expert", "fusion tokens", "projections"}
    assert result["latency"]["video_ms"] > 0


def test_unstripped_it_is_shown_what_its_training_was(trained, tmp_path):
    _, teacher = trained
    (result,) = evaluate_with_auxiliary(teacher, nfe=("1v/2a",), out=tmp_path, capacity=3)
    assert result["run"] == "swift_full with auxiliary"
    assert result["overall"]["episodes"] == 1
    assert result["parameters"]["auxiliary projection"] > 0
    assert evaluate_with_auxiliary(teacher, nfe=("1v/2a",), out=tmp_path, capacity=3) == [result]
    with pytest.raises(ValueError, match="cache: 3 then, 4 now"):
        evaluate_with_auxiliary(teacher, nfe=("1v/2a",), out=tmp_path, capacity=4)
    with pytest.raises(ValueError, match=r"trained with caches of 3, 4, 5, 6 entries; asked for one of 7"):
        load_with_auxiliary(teacher, capacity=7)
    assert load_with_auxiliary(teacher)[1].capacity == 6
    policy, sense = load_with_auxiliary(teacher, capacity=3)
    assert policy.wam.senses == {"state": 4, "auxiliary": 16 * 128}
    repo = Path(policy.info.recipe.data.root) / TASK
    pictures = read_frames(video_path(repo, 0), range(0, 24, 4))
    sense.reset()
    told = sense.sense(pictures[None])
    store = TokenStore.load(repo.parent, "geometry")
    for frame in range(6):
        expected = store.read(repo, 0, frame, 3).flatten()
        torch.testing.assert_close(told[0, :, frame, 0, 0], expected, atol=2e-2, rtol=2e-2)


def test_it_is_distilled_and_served_as_any_model(trained, tmp_path):
    pytest.importorskip("websockets")
    from flashwam.evaluation.served import evaluate_served
    from flashwam.serve.model import load_served
    from flashwam.serve.server import serving

    root, teacher = trained
    overrides = [*SMALL, f"data.root={root / 'data'}", f"wam.pretrained={teacher}", "distill.steps=2"]
    recipe = load_recipe("swiftvla/metaworld/one_step", overrides)
    student = pipeline.distill(recipe, run_dir=root / "one_step")
    assert load_wam(student)[1].kind == "student"
    (local,) = evaluate(student, nfe=("1v/1a",), out=tmp_path / "local")
    served = load_served(student, nfe="1v/1a")
    assert served.metadata["senses"] == {"state": 4}
    with serving(served) as server:
        (remote,) = evaluate_served(server.url, out=tmp_path / "served")
    assert remote["overall"] == local["overall"]


def test_a_second_stage_begins_with_the_first(trained, tmp_path):
    root, _ = trained
    data = f"data.root={root / 'data'}"
    small = [one for one in SMALL if "provider" not in one]
    first = pipeline.train(load_recipe("swiftvla/metaworld/2d", [*small, data]), run_dir=tmp_path / "first")
    assert load_wam(first)[0].fusion is None
    overrides = [*SMALL, data, f"wam.pretrained={first}", "train.lr=1e-12"]
    second = pipeline.train(load_recipe("swiftvla/metaworld/full", overrides), run_dir=tmp_path / "second")
    before, after = (load_wam(folder)[0].state_dict() for folder in (first, second))
    assert set(after) - set(before) == {"fusion"}
    assert all(torch.allclose(after[key], before[key], atol=1e-6) for key in before)
