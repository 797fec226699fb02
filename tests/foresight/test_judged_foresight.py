# SPDX-License-Identifier: Apache-2.0
"""Both stages of the foresight as they are measured while they are trained, by recipe."""

from pathlib import Path

import pytest

from flashwam import pipeline
from flashwam.recipe.load import load_recipe
from flashwam.report.metrics import read_metrics
from flashwam.system.paths import ASSETS

JUDGE = {"every": 2, "windows": 3, "draws": 2, "episodes": 0, "nfe": "1v/2a"}


def settings(data: Path, **judge: object) -> list[str]:
    told = ", ".join(f"{name}: {value}" for name, value in {**JUDGE, **judge}.items())
    return [
        "data.tasks=[faucet-turn]",
        "data.multimodal_episodes=20",
        "data.processes=1",
        f"data.root={data}",
        f"wam.pretrained={ASSETS / 'teacher'}",
        "distill.options.pool=3",
        "distill.options.providers={semantic: {name: scene, labels: colours, steps: 2},"
        " geometric: {name: scene, labels: motion, steps: 2}}",
        "distill.steps=2",
        "distill.batch_size=2",
        "distill.warmup_steps=0",
        f"distill.judge={{{told}}}",
    ]


def judged(run: Path) -> list[dict[str, float]]:
    lines = [line for line in read_metrics(run / "metrics.jsonl") if any(name.startswith("judged/") for name in line)]
    assert [line["step"] for line in lines] == [0, 2]
    return lines


def test_decouplers_are_judged_by_what_they_foresee_and_the_expert_by_what_it_draws(
    two_way_episodes: Path, tmp_path: Path
) -> None:
    own = settings(two_way_episodes)
    best = "distill.keep_best=semantic_error_teacher"
    first = load_recipe("metaworld/foresight_decouplers", [*own, best])
    pipeline.distill(first, run_dir=tmp_path / "first")
    lines = judged(tmp_path / "first")
    guesses = ("copy", "other_seed", "one_step")
    assert {name.removeprefix("judged/") for name in lines[0]} - {"step"} == {
        f"{name}_{what}" for name in ("semantic", "geometric") for what in ("error_teacher", "follows_noise", *guesses)
    }
    assert lines[0]["judged/semantic_error_teacher"] != lines[1]["judged/semantic_error_teacher"]
    for guess in guesses:
        assert lines[0][f"judged/semantic_{guess}"] == lines[1][f"judged/semantic_{guess}"] > 0
    assert (tmp_path / "first" / "best").is_dir()

    init = f"distill.init={tmp_path / 'first' / 'teacher'}"
    own = settings(two_way_episodes, episodes=1)
    second = load_recipe("metaworld/foresight", [*own, init, "distill.options.looks=3"])
    pipeline.distill(second, run_dir=tmp_path / "second")
    last = judged(tmp_path / "second")[-1]
    assert last["judged/success"] in (0, 1)
    assert last["judged/all_error_teacher"] > 0
    assert last["judged/action_error_teacher"] > 0
    assert not [name for name in last if name.startswith("judged/semantic")]


def test_what_drives_nobody_is_not_driven(two_way_episodes: Path, tmp_path: Path) -> None:
    recipe = load_recipe("metaworld/foresight_decouplers", settings(two_way_episodes, episodes=1))
    with pytest.raises(ValueError, match=r"judge\.episodes is 1, .*after this stage of foresight nothing drives yet"):
        pipeline.distill(recipe, run_dir=tmp_path)
