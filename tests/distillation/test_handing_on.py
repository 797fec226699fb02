# SPDX-License-Identifier: Apache-2.0
"""The right answer's way up from the data is told from the recipe, and borne out by a chain of averages."""

import math

import pytest
from distill_toys import GaussianTeacher, ToySource, ToyWam

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import find_method, make_method
from flashwam.distillation.methods.handing_on import Following, late_streams
from flashwam.distillation.trainer import train
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import LoopConfig
from flashwam.report.analyze import recipe_analysis


def chain(hops, steps, decay):
    """A level's answer when each learns its target at once, the lowest one 1, and targets are averages of the answers."""
    averages = [0.0] * hops
    answers = [1.0, *averages[:-1]]
    for _ in range(steps):
        answers = [1.0, *averages[:-1]]
        averages = [decay * kept + (1 - decay) * new for kept, new in zip(averages, answers, strict=True)]
    return answers[-1]


@pytest.mark.parametrize(("hops", "horizons"), [(2, 1.0), (2, 10.0), (10, 10.0), (25, 10.0), (25, 40.0)])
def test_a_chain_of_averages_passes_on_as_much(hops, horizons):
    steps = 20_000
    decay = 1 - horizons / steps
    following = Following(steps=steps, decay=decay)
    assert following.horizons == pytest.approx(horizons)
    assert following.arrived(hops) == pytest.approx(chain(hops, steps, decay), abs=2e-3)


def test_it_is_the_tail_of_a_poisson_variable():
    tail = 1 - sum(math.exp(-10) * 10**k / math.factorial(k) for k in range(9))
    assert Following(steps=1000, decay=0.99).arrived(10) == pytest.approx(tail)
    assert Following(steps=1, decay=0.99).arrived(1) == 1.0


def analysis(*changes, recipe="naive_lcm"):
    return recipe_analysis(load_recipe(recipe, ["distill.steps=400", "distill.ema_decay=0.975", *changes]))


def late(*changes, **options):
    return [warning for warning in analysis(*changes, **options)["warnings"] if "targets in a row" in warning]


def test_many_anchors_and_a_slow_average_are_warned_of_with_what_helps():
    assert late() == []
    (warning,) = late("streams.action.anchors=25")
    assert warning.startswith("action: 25 targets in a row lead from the data up to sigma = 1,")
    assert "horizon goes 10 times into the 400 steps: 0% of what is learned" in warning
    assert "Take distill.ema_decay=0.907 or less, distill.steps=1,474 or more, or fewer anchors." in warning
    assert warning.endswith("on its way from its start, 0.45 x0 + 0.20 eps.")
    assert late("streams.action.anchors=25", "distill.ema_decay=0.907") == []
    # Both streams share the sentence; a linear one begins as its teacher.
    (both,) = late("streams.action.anchors=25", "streams.video.anchors=25", recipe="linear_both")
    assert both.startswith("video, action: 25 targets")
    assert "from its start, the teacher's single step" in both
    short = late("streams.action.anchors=25", "distill.steps=20")
    assert [warning.partition(" in a row")[0] for warning in short] == ["video: 2 targets", "action: 25 targets"]
    assert "rate. Take distill.steps=1,474 or more, or fewer anchors." in short[1]


def test_methods_whose_targets_are_the_teachers_own_are_not():
    for recipe in ("pairs", "on_policy"):
        told = analysis("streams.action.anchors=25", recipe=recipe)
        assert not any("targets in a row" in warning for warning in told["warnings"])
        assert {level["arrives"] for numbers in told["streams"].values() for level in numbers["levels"]} == {1.0}


def test_a_training_says_so_before_it_begins():
    for anchors, late in ((2, []), (25, ["action"])):
        recipe = load_recipe(
            "naive_lcm", ["distill.steps=400", "distill.ema_decay=0.975", f"streams.action.anchors={anchors}"]
        )
        told = dict(late_streams(find_method(recipe.distill.method), recipe.streams, recipe.distill))
        assert list(told) == late
        assert all("25 targets in a row" in text for text in told.values())
    recipe = load_recipe("teacher")
    assert not list(late_streams(find_method(recipe.train.method), recipe.streams, recipe.train))


@pytest.mark.parametrize("anchors", [2, 25])
def test_its_log_has_it_too(tmp_path, caplog, anchors):
    streams = {name: StreamSpec.from_config(name, {"shift": 1.0, "anchors": anchors}) for name in ("video", "action")}
    config = LoopConfig(method="consistency", steps=4, batch_size=4, ema_decay=0.5)
    method = make_method(config, streams, ToyWam.create(seed=1), teacher=GaussianTeacher())
    with caplog.at_level("WARNING"):
        train(method, ToySource(), config, run_dir=tmp_path, seed=0)
    assert caplog.text.count(f"{anchors} targets in a row") == (2 if anchors > 2 else 0)
