# SPDX-License-Identifier: Apache-2.0
"""Films that a simulator's results name, on a comparison's page."""

import pytest
from synthetic import evaluation, write

from flashwam.report.compare import gather
from flashwam.report.films_page import films_section


def rows_of(folder, *results):
    return gather([write(folder / "run", *results)], folder / "out")[0]


def test_a_few_tasks_of_a_suite_are_shown_and_the_others_counted(tmp_path):
    films = {f"task {number}": f"film{number}.png" for number in range(5)}
    told = evaluation("m", simulator={"films": films})
    later = evaluation("m", seed=1, simulator={"films": {"task 0": "other.png"}})
    rows = rows_of(tmp_path, told, later)
    assert films_section(rows) is None
    for name in (*films.values(), "other.png"):
        (tmp_path / "run" / "evaluations" / name).write_bytes(b"")
    section = films_section(rows_of(tmp_path, told, later))
    assert [figure.path.name for figure in section.figures] == ["film0.png", "film1.png", "film2.png"]
    assert all(figure.photo and figure.alt for figure in section.figures)
    assert section.notes == ["m 1v/1a: films of 2 more tasks lie beside its evaluation."]


@pytest.mark.parametrize(
    "simulator", [None, "libero", {}, {"films": ["a.png"]}, {"films": {"a": 3, "b": "../gone.png"}}]
)
def test_results_that_name_no_film_are_shown_without(tmp_path, simulator):
    (row,) = rows_of(tmp_path, evaluation("m", simulator=simulator))
    assert row.task_films == {}
    assert films_section([row]) is None
