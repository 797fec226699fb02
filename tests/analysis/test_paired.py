# SPDX-License-Identifier: Apache-2.0
"""Any two models of a study held against each other say what its tables say."""

import re

import pytest
from paired import RESULTS, find_row, lines, named_rows

NUMBER = r"([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]"


@pytest.fixture(scope="module")
def rows():
    return named_rows(RESULTS / "one_step")


@pytest.mark.parametrize(
    ("one", "other"),
    [("dmd2_joint_400", "flash_wam_400"), ("naive_lcm_400", "teacher"), ("best_400", "linear_both_400")],
)
def test_it_prints_what_the_kept_table_of_differences_has(rows, one, other):
    (kept,) = re.findall(
        rf"^\| {one} less {other} \| 1v/1a \| (\d) \| {NUMBER} \| {NUMBER} \|$",
        (RESULTS / "one_step/comparison/differences.md").read_text(),
        re.M,
    )
    told = {line[0]: line for line in lines(find_row(rows, f"{one} 1v/1a"), find_row(rows, f"{other} 1v/1a"))}
    assert list(told) == ["two-way", "one-way", "all"]
    found = [re.search(NUMBER, told[group][5]).groups() for group in ("two-way", "one-way")]
    assert (told["two-way"][1], *found[0], *found[1]) == kept


def test_colder_noise_and_latencies_are_rows_and_tasks_can_be_chosen(rows):
    assert "teacher 1v/4a t0.5" in rows
    late = named_rows(RESULTS / "real_time")
    one, other = (find_row(late, f"pairs 1v/1a hold {ms}") for ms in (348, 26))
    whole = {line[0]: int(line[2]) for line in lines(one, other)}
    (moving, everything) = lines(one, other, ["button-moving"])
    assert whole["all"] == whole["two-way"] + whole["one-way"] == 160
    assert moving[1:] == everything[1:]
    assert moving[2:5] == ["40", "18", "25"]


def test_a_name_that_is_not_there_lists_those_that_are(rows):
    with pytest.raises(ValueError, match=r"there is no 'pairs 3v/3a'; there are .*pairs 1v/1a"):
        find_row(rows, "pairs 3v/3a")
