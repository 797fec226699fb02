# SPDX-License-Identifier: Apache-2.0
"""Each simulator has the pace that was measured of it."""

from flashwam.plan import make_plan
from flashwam.recipe.load import load_recipe


def test_libero_is_slower_and_looks_twice():
    told = {name: dict(make_plan(load_recipe(name), "collect").rows) for name in ("teacher", "libero_small/teacher")}
    assert [each["time"].partition("(")[2] for each in told.values()] == [
        "stored throughput: 2.9 episodes a second and core)",
        "stored throughput: 0.2 episodes a second and core)",
    ]
