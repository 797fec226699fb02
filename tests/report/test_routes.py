# SPDX-License-Identifier: Apache-2.0
"""Ways to a cheap student side by side: orders of the papers, the table, the figure."""

import json

import pytest
from synthetic import TASKS, evaluation, latency, write

from flashwam.report.compare import gather
from flashwam.report.routes import Order, best_at_each_latency, check_orders, draw_routes, write_routes
from flashwam.report.table import format_table
from flashwam.run.evaluation import Evaluation

CLAIM = {"claim": "it helps", "published": ".5, .4"}


def driven(run, rate, *, seed=0, ms=(1, 1), reverse=False, **rest):
    """An evaluation whose first episodes succeed, or its last ones."""
    result = evaluation(run, rates=rate, seed=seed, latency=latency(*ms), **rest)
    for task in result["tasks"].values():
        outcomes = [1] * task["success"] + [0] * (task["episodes"] - task["success"])
        task["outcomes"] = outcomes[::-1] if reverse else outcomes
    return result


def checked(orders, results):
    return check_orders(orders, [Evaluation.from_json(result, "made up") for result in results])


def test_an_order_holds_where_the_interval_and_every_seed_say_so():
    results = [driven("good", 0.8, seed=s) for s in (0, 1)] + [driven("bad", 0.6, seed=s) for s in (0, 1)]
    order = Order(better="good", worse="bad", **CLAIM)
    (holds,) = checked([order], results)
    assert holds["verdict"] == "holds"
    assert holds["difference"] == pytest.approx(0.2)
    assert holds["by_seed"] == pytest.approx([0.2, 0.2])
    assert holds["episodes"] == 500
    (turned,) = checked([Order(better="bad", worse="good", **CLAIM)], results)
    assert turned["verdict"] == "reversed"
    assert turned["low"] == pytest.approx(-holds["high"])


def test_an_order_is_open_where_a_seed_disagrees_or_chance_would_do():
    clear = [driven("a", 0.9, seed=0), driven("b", 0.5, seed=0), driven("a", 0.5, seed=1), driven("b", 0.52, seed=1)]
    order = Order(better="a", worse="b", **CLAIM)
    (one,) = checked([order], clear)
    assert one["low"] > 0
    assert one["verdict"] == "open"
    (chance,) = checked([order], [driven("a", 0.5), driven("b", 0.5, reverse=True)])
    assert chance["difference"] == 0
    assert chance["trainings"] is None
    assert chance["verdict"] == "open"


def test_an_order_that_rests_on_one_seed_is_open():
    rates = {"a": (0.9, 0.51, 0.51), "c": (0.9, 0.6, 0.6), "d": (0.8, 0.7, 0.7), "b": (0.5, 0.5, 0.5)}
    results = [
        driven(run, rate, seed=seed, reverse=run == "b")
        for run, each in rates.items()
        for seed, rate in enumerate(each)
    ]
    carried, spread, shared = checked([Order(better=name, worse="b", **CLAIM) for name in "acd"], results)
    assert carried["low"] > 0
    assert min(carried["by_seed"]) > 0
    assert carried["verdict"] == "open"
    # Clear over episodes, whichever seed is left out; by three trainings that differ so it could be chance.
    assert spread["low"] > 0
    assert spread["trainings"] == pytest.approx([0.2 - 4.3027 * 0.1, 0.2 + 4.3027 * 0.1], abs=1e-4)
    assert spread["verdict"] == "open"
    assert shared["verdict"] == "holds"


def test_orders_compare_the_seeds_that_both_have_and_leave_out_what_is_missing():
    results = [driven("a", 0.5, seed=s) for s in (0, 1)] + [driven("b", 0.4, seed=1), evaluation("silent")]
    orders = [Order(better="a", worse=worse, **CLAIM) for worse in ("b", "silent", "nobody")]
    (only,) = checked(orders, results)
    assert (only["worse"], only["episodes"]) == ("b", 250)


def test_only_what_is_slower_and_worse_is_left_behind(tmp_path):
    """A model that is faster by less than times can be told apart does not count as faster."""
    measured = {"slow": (0.9, 10), "fast": (0.5, 1), "dull": (0.4, 2), "middle": (0.7, 3), "level": (0.68, 2.9)}
    for size, (run, (rate, ms)) in enumerate(measured.items(), 1):
        write(tmp_path / run, driven(run, rate, ms=(ms, ms), parameters={"network": size}))
    rows, _, _ = gather([tmp_path / run for run in measured], tmp_path)
    assert [row.run for row in best_at_each_latency(rows)] == ["fast", "middle", "slow"]


def test_the_line_is_that_of_a_group_of_tasks(tmp_path):
    """A model that is best on the tasks with one way is not therefore on the line of the others."""
    rates = {"two": {True: 0.9, False: 0.2}, "one": {True: 0.2, False: 0.9}}
    for run, each in rates.items():
        write(tmp_path / run, driven(run, {name: each[several] for name, several in TASKS.items()}))
    rows, _, _ = gather([tmp_path / run for run in rates], tmp_path)
    assert [[row.run for row in best_at_each_latency(rows, several=several)] for several in (True, False)] == [
        ["two"],
        ["one"],
    ]


def test_table_figure_and_orders_are_written_together(tmp_path):
    runs = [write(tmp_path / run, driven(run, rate)) for run, rate in (("teacher", 0.9), ("good", 0.8), ("bad", 0.6))]
    out = tmp_path / "out"
    out.mkdir()
    costs = {"good": {"training": 90.0, "before": {"teacher": 600.0, "records": 30.0}, "parameters": {"model": 2500}}}
    (out / "costs.json").write_text(json.dumps(costs))
    routes = {"teacher": ("teacher",), "a way": ("good", "bad", "not run"), "another": ("not run either",)}
    result = write_routes(runs, out=out, routes=routes, orders=[Order(better="good", worse="bad", **CLAIM)])
    table = (out / "students.md").read_text()
    (line,) = [line for line in table.splitlines() if line.startswith("| good 1v/1a")]
    assert line.startswith("| good 1v/1a | 2 | 1 | 250 | 0.80 | 0.89 [0.79, 0.98] | 0.80 | 0.89 [0.79, 0.98] |")
    assert line.endswith("| 0.70 | 16 | 1.0x | 2.5 k | 1.5 + 10 |")
    assert "| it helps | .5, .4 | +20 (+15 to +25) | +20 | - | open |" in table
    assert "another" not in table
    assert json.loads((out / "students.json").read_text()) == result
    assert (out / "routes.png").stat().st_size > 10_000


def test_the_first_run_of_a_way_that_was_driven_is_named(tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr("flashwam.report.routes.label_points", lambda axes, labels: named.extend(labels))
    for run, rate, steps in (("teacher", 0.9, 10), ("slow", 0.5, 12), ("slower", 0.4, 14)):
        write(tmp_path / run, driven(run, rate, ms=(steps, steps)))
    runs = [tmp_path / run for run in ("teacher", "slow", "slower")]
    write_routes(runs, out=tmp_path, routes={"teacher": ("teacher",), "way": ("none", "slow", "slower")}, orders=[])
    # In the panels of both groups of tasks.
    assert [label for _, _, label, _ in named if label] == ["teacher 1v/1a", "slow 1v/1a"] * 2
    assert len(named) == 2 * 3
    assert "claim" not in (tmp_path / "students.md").read_text()


def test_costs_and_sizes_are_shown_where_they_are_known(tmp_path):
    write(tmp_path / "a", driven("a", 0.5))
    rows, _, _ = gather([tmp_path / "a"], tmp_path)
    assert "training, min" not in format_table(rows)
    (tmp_path / "costs.json").write_text(json.dumps({"a": {"training": 30.0, "before": {}}}))
    rows, _, _ = gather([tmp_path / "a"], tmp_path)
    assert format_table(rows).splitlines()[-1].split()[-1] == "0.5"


def test_a_figure_needs_a_row_with_a_route(tmp_path):
    write(tmp_path / "a", driven("a", 0.5))
    rows, _, _ = gather([tmp_path / "a"], tmp_path)
    with pytest.raises(ValueError, match="belongs to a route"):
        draw_routes(rows, {"way": ("b",)}, tmp_path / "x.png")
