# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from papers import need

from flashwam.distillation.methods import METHODS, ConsistencyDistillation, FlowMatching, find_method
from flashwam.plan import plan_training
from flashwam.recipe.load import load_recipe


class Uncounted(FlowMatching):
    """A method of a user's own that says nothing of its cost."""

    stream_choices = None

    @classmethod
    def passes_without_gradient(cls, streams, options):
        return None


class Twice(ConsistencyDistillation):
    """A method of a user's own that says what it costs."""

    @classmethod
    def passes_without_gradient(cls, streams, options):
        return 2 * super().passes_without_gradient(streams, options)


def passes(name, recipe="metaworld/flash_wam", **options):
    streams = load_recipe(recipe).streams
    return find_method(name).passes_without_gradient(streams, options)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_ours_has_counted_its_passes(name):
    if isinstance(METHODS[name], str):
        need(METHODS[name].split(".")[1])
    assert passes(name) >= 0


def test_a_guided_teacher_and_each_of_its_steps_cost_passes():
    streams = load_recipe("metaworld/flash_wam").streams
    plain = {name: replace(spec, guidance=None, teacher_substeps=1) for name, spec in streams.items()}
    count = ConsistencyDistillation.passes_without_gradient
    assert count(plain, {}) == 2
    plain["video"] = replace(plain["video"], guidance=(1.0, 2.0), teacher_substeps=3)
    assert count(plain, {}) == 1 + 2 * (1 + 0.5 * 2)


def test_an_anchor_costs_the_steps_of_its_path():
    assert passes("consistency", anchor=0.0, anchor_steps=4) == passes("consistency")
    more = passes("consistency", "metaworld/tacd", anchor=0.2) - passes("consistency", "metaworld/tacd")
    assert more == 1 + 0.5 * 9
    guided = passes("consistency", anchor=0.2, anchor_steps=4) - passes("consistency")
    assert guided == 2 * (1 + 0.5 * 3)


def test_on_policy_counts_the_steps_of_its_option():
    more = passes("on_policy", teacher_steps=13) - passes("on_policy", teacher_steps=9)
    assert passes("on_policy") == passes("on_policy", teacher_steps=9)
    assert more == pytest.approx(4 * (passes("on_policy", teacher_steps=1) - passes("on_policy", teacher_steps=0)))


def test_a_method_of_a_users_own_says_what_it_costs():
    def planned(kind):
        large = load_recipe("libero/flash_wam", [f"distill.method={kind.__module__}:{kind.__qualname__}"])
        return plan_training(large, "distill", gpus=4).time

    assert planned(Twice).seconds > planned(ConsistencyDistillation).seconds
    assert planned(Uncounted).seconds is None
