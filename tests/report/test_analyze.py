# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest
import torch

from flashwam.core.streams import StreamSpec
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.report.analyze import analyze
from flashwam.report.metrics import gradient_bins
from flashwam.report.record import read_record
from flashwam.report.record_page import record_sentence

BINS = 10


def recipe(action_shift=0.05, action="lcm"):
    streams = {
        "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm"}),
        "action": StreamSpec.from_config("action", {"shift": action_shift, "consistency": action}),
    }
    return Recipe(name="naive", streams=streams)


def write_metrics(folder, factors):
    """A run whose gradients per bin are exactly factor * RMS of |b_lcm| over the bin's draws."""
    rows = []
    for step in (10, 20):
        row = {"step": step}
        for stream, spec in recipe().streams.items():
            u = torch.linspace(0, 1, 400_001, dtype=torch.float64)
            sigma = spec.schedule.sigma(u)
            squares = (0.5 * sigma**2 / (sigma**2 + 0.25) ** 0.5) ** 2
            for k in range(BINS):
                inside = (sigma >= k / BINS) & (sigma < (k + 1) / BINS)
                row[f"{stream}/grad_sigma_bin_{k}"] = factors[stream] * float(squares[inside].mean()) ** 0.5
        rows.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(rows) + '\n{"step": 30, "video/gr')


def test_the_page_is_self_contained_and_holds_the_numbers(tmp_path):
    result = analyze(recipe(), out=tmp_path)
    page = (tmp_path / "schedule.html").read_text()
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 3
    for text in (
        "22 times less gradient than video gets",
        "0.833",
        "0.048",
        "69.0%",
        "0.0052",
        "0.114",
        "0.647 x -0.447 v",
        "0.45 x0 + 0.20 eps",
        "only 0.55% of the training samples lie within 0.1 of sigma = 1",
        "1.00 to 0.05",
        "pairs, with linear on every stream.",
        "(miniature LingBot-VA, five tasks, ",
        record_sentence(read_record()),
    ):
        assert text in page, text
    assert json.loads((tmp_path / "schedule.json").read_text()) == result
    assert {"gradient_scale.png", "gradient_moments.png", "start.png"} <= {p.name for p in tmp_path.iterdir()}


def test_measured_gradients_are_laid_over_the_theory(tmp_path):
    run = tmp_path / "run"
    (run / "student").mkdir(parents=True)
    write_metrics(run, {"video": 0.5, "action": 1e-4})
    result = analyze(recipe(), out=tmp_path / "out", checkpoint=run / "student")
    assert result["measured"]["video"]["scale"] == pytest.approx(0.5, rel=1e-3)
    assert result["measured"]["action"]["scale"] == pytest.approx(1e-4, rel=1e-3)
    assert result["measured"]["action"]["log10_deviation"] == pytest.approx(0, abs=1e-3)
    assert result["measured"]["video"]["steps"] == 2
    assert "Measured against theory" in (tmp_path / "out" / "schedule.html").read_text()


def test_what_a_measured_gradient_tells_is_said_by_the_loss_that_it_is_of(tmp_path):
    """That of distributions that are matched has one size, whether or not the student agrees with its teacher."""
    (tmp_path / "run").mkdir()
    write_metrics(tmp_path / "run", {"video": 0.5, "action": 1e-4})
    agrees, matched = "the student already agrees", "their height tells nothing"

    def page(method, **video):
        own = StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm", **video})
        streams = {**recipe().streams, "video": own}
        loop = LoopConfig(steps=20, batch_size=2, lr=1e-3, method=method)
        made = Recipe(name="naive", streams=streams, distill=loop)
        analyze(made, out=tmp_path / "out", checkpoint=tmp_path / "run")
        return (tmp_path / "out" / "schedule.html").read_text()

    assert agrees in (told := page("consistency"))
    assert matched not in told
    assert agrees not in (told := page("distribution_matching"))
    assert "video and action: a loss that matches" in told
    assert agrees in (told := page("pairs", loss="dmd"))
    assert "video: a loss that matches" in told


def test_levels_that_were_never_drawn_leave_the_others_where_they_are(tmp_path):
    write_metrics(tmp_path, {"video": 0.5, "action": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text(re.sub(r'"action/grad_sigma_bin_[89]": [^,}]+,? ?', "", path.read_text()).replace(", }", "}"))
    found = gradient_bins([json.loads(line) for line in path.read_text().splitlines()[:2]], "action")
    assert found["edges"] == [(k / 10, (k + 1) / 10) for k in range(8)]


def test_a_variance_preserving_recipe_is_analysed_without_its_model(tmp_path):
    result = analyze(load_recipe("videovla/cogvideox_2b"), out=tmp_path)
    page = (tmp_path / "schedule.html").read_text()
    for text in (
        "vp, SNR shift 3",
        "0.754",
        "No. video and action draw from one schedule",
        "sigma = s / (alpha + s)",
        "(miniature CogVideoX, five tasks, ",
    ):
        assert text in page, text
    assert "A shift above 1" not in page
    assert result["warnings"] == []
    assert json.loads((tmp_path / "schedule.json").read_text()) == result


def test_a_checkpoint_without_metrics_is_refused(tmp_path):
    empty = tmp_path / "a" / "b" / "c" / "d" / "e"
    empty.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no metrics\.jsonl"):
        analyze(recipe(), out=tmp_path / "out", checkpoint=empty)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "video/loss": 0.1}\n')
    with pytest.raises(ValueError, match="no gradients per sigma bin"):
        analyze(recipe(), out=tmp_path / "out", checkpoint=tmp_path)


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 1: not JSON"):
        analyze(recipe(), out=tmp_path / "out", checkpoint=tmp_path)
