# SPDX-License-Identifier: Apache-2.0
"""Faults that are found in all episodes before the first picture is encoded."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("av")

import pyarrow as pa
import pyarrow.parquet as pq
from raw_edits import encoders, episodes, put, rewrite, run, table_of
from raw_sets import actions

from flashwam.data.preflight import ActionRules


def never(pixels):
    raise AssertionError("a picture was encoded")


def null_row(rows):
    return [*rows[:3], None, *rows[4:]]


def wider(rows):
    return [[*row, 0.0] for row in rows]


FAULTS = {
    "nan": (put(10, 2, float("nan")), "not finite in row 10, control 2"),
    "inf": (put(0, 6, float("inf")), "not finite in row 0, control 6"),
    "null": (put(10, 2, None), "null in row 10, control 2"),
    "null row": (null_row, "row 3 is null"),
    "width": (wider, "8 controls, the others have 7"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("episode", [0, 1])
def test_a_fault_of_the_actions_is_found_before_a_picture_is_encoded(repo, fault, episode):
    """Refused by file, episode, row and control; or the episode is listed and left out of the result."""
    change, told = FAULTS[fault]
    path = rewrite(repo, episode, change)
    with pytest.raises(ValueError) as caught:
        run(repo, make=lambda: dataclasses.replace(encoders(), video=never))
    assert str(caught.value).startswith(f"{path}: episode {episode}")
    assert told in str(caught.value)
    result = run(repo, skip_bad=True)
    assert result.episodes == 2
    assert list(result.bad) == [f"towels/episode_{episode:06d}"]
    assert [one["episode_index"] for one in episodes(repo)] == [e for e in range(3) if e != episode]


def test_one_row_of_another_width_is_told_by_its_row(repo):
    rewrite(repo, 2, lambda rows: [*rows[:4], rows[4][:-1], *rows[5:]])
    with pytest.raises(ValueError, match="episode 2: column 'action': row 4 has 6 numbers, the others have 7"):
        run(repo)


@pytest.mark.parametrize("kind", [pa.large_list(pa.float32()), pa.list_view(pa.float64()), pa.list_(pa.float32(), 7)])
def test_lists_of_any_kind_are_converted(repo, kind):
    for episode in range(3):
        rewrite(repo, episode, list, kind=kind)
    assert run(repo).episodes == 3
    for episode in range(3):
        path = repo.parent.parent / f"out/towels/data/chunk-000/episode_{episode:06d}.parquet"
        np.testing.assert_array_equal(pq.read_table(path)["action"].to_pylist(), actions(episode))


def test_a_column_of_texts_or_none_at_all_is_refused_by_name(repo):
    path = table_of(repo, 2)
    table = pq.read_table(path)
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", pa.array(["fold"] * table.num_rows)), path)
    with pytest.raises(ValueError, match="episode 2: column 'action': is of string, expected lists of numbers"):
        run(repo)
    pq.write_table(table.rename_columns({"action": "actions"}), path)
    with pytest.raises(ValueError, match=r"episode 2: has no column 'action'; .*set data\.action_key=actions"):
        run(repo)


def test_what_a_recipe_says_of_the_controls_is_held_to(repo):
    with pytest.raises(ValueError, match=r"episode 0 has 7 controls, data\.used_channels names 8"):
        run(repo, rules=ActionRules(width=8))
    with pytest.raises(ValueError, match=r"episode 0 has 7 controls, the model has 6"):
        run(repo, rules=ActionRules(most=6))
    with pytest.raises(ValueError, match=r"episode 0: expected poses \[T, 8 per arm\]"):
        run(repo, rules=ActionRules(relative=True))


def test_where_nothing_is_left_the_error_says_why(repo):
    for episode in range(3):
        rewrite(repo, episode, put(1, 1, float("nan")))
    with pytest.raises(ValueError, match=r"nothing below .* could be converted: .*not finite in row 1, control 1"):
        run(repo, skip_bad=True)
