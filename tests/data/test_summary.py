# SPDX-License-Identifier: Apache-2.0
"""The table that a conversion ends with, from the recipe on."""

import json

import numpy as np
import pytest

pytest.importorskip("av")

import pyarrow.parquet as pq
from raw_edits import encoders, put, rewrite
from raw_sets import CAMERAS

from flashwam import pipeline
from flashwam.data.actions import ActionNorm
from flashwam.data.summary import summary_lines
from flashwam.recipe.load import load_recipe


def recipe(root, **more):
    values = {
        "data.root": root,
        "data.tasks": "['*']",
        "data.cameras": f"[{','.join(CAMERAS)}]",
        "data.camera_size": "[16,16]",
        "data.stride": 2,
        "data.processes": 1,
        "data.skip_bad": "true",
        "wam.pretrained": "null",
        **more,
    }
    return load_recipe("libero/flash_wam", [f"{key}={value}" for key, value in values.items()])


def still(rows):
    """The gripper moves once, and the last control never."""
    return [[*row[:5], -1.0 if number == 4 else 1.0, 0.0] for number, row in enumerate(rows)]


def test_a_conversion_tells_what_it_kept_and_how_controls_are_normalised(repo):
    rewrite(repo, 0, put(10, 2, float("nan")))
    for episode in (1, 2):
        rewrite(repo, episode, still if episode == 1 else lambda rows: [[*row[:5], 1.0, 0.0] for row in rows])
    out = repo.parent.parent / "out"
    done = pipeline.convert(recipe(out), repo.parent, out, make_encoders=encoders, progress=False)
    told = json.loads((out / "conversion_report.json").read_text())
    assert (told["episodes"], list(told["left_out"])) == (2, ["towels/episode_000000"])
    assert "not finite in row 10, control 2" in told["left_out"]["towels/episode_000000"]
    norm = ActionNorm.from_dict(json.loads((out / "action_norm.json").read_text()))
    for fit in told["controls"]:
        assert (fit["low"], fit["high"]) == (norm.q01[fit["channel"]], norm.q99[fit["channel"]])
        assert fit["clipped"] < 0.05
    assert told["controls"][6]["basis"] == "constant"
    # The recipe carries another robot's, which a training would take.
    assert told["recipe"]["origin"] == "data.q01 and data.q99 of the recipe"
    assert max(fit["clipped"] for fit in told["recipe"]["controls"]) > 0.3
    lines = summary_lines(done)
    assert lines[0] == "episodes: 2 kept, 1 things left out"
    assert lines[1].startswith("bad: ")
    assert sum(line.endswith(("quantiles", "constant", "minimum and maximum")) for line in lines) == 7
    assert "a training with this recipe takes other quantiles: data.q01 and data.q99" in "\n".join(lines)
    worst = max(told["recipe"]["controls"], key=lambda fit: fit["outside"])
    first = next(line for line in lines if line.startswith("  control"))
    assert first.startswith(f"  control {worst['control']}: {worst['outside']:.1%} of rows clipped")


def test_a_rare_control_is_named_and_the_datas_own_quantiles_need_no_comparison(repo):
    rewrite(repo, 1, still)
    for episode in (0, 2):
        rewrite(repo, episode, lambda rows: [[*row[:5], 1.0, 0.0] for row in rows])
    out = repo.parent.parent / "out"
    own = recipe(out, **{"data.q01": "null", "data.q99": "null"})
    done = pipeline.convert(own, repo.parent, out, make_encoders=encoders, progress=False)
    assert done.given is None
    assert json.loads((out / "conversion_report.json").read_text())["recipe"] is None
    assert np.isclose(done.controls[5].least, -1)
    assert done.controls[5].clipped == 0


def test_the_recipes_key_of_the_actions_is_used_and_asked_for(repo):
    for file in sorted((repo / "data").rglob("*.parquet")):
        pq.write_table(pq.read_table(file).rename_columns({"action": "actions"}), file)
    out = repo.parent.parent / "out"
    with pytest.raises(ValueError, match=r"nothing below .* could be converted: .*set data\.action_key=actions"):
        pipeline.convert(recipe(out), repo.parent, out, make_encoders=encoders, progress=False)
    named = recipe(out, **{"data.action_key": "actions"})
    assert pipeline.convert(named, repo.parent, out, make_encoders=encoders, progress=False).episodes == 3
    with pytest.raises(ValueError, match=r"action_key.*the name of a column"):
        recipe(out, **{"data.action_key": "''"})
