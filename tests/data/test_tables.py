# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flashwam.data.episodes import read_table
from flashwam.data.tables import action_rows, read_actions

ROWS = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 1, 2]]
LISTS = {
    "list": pa.list_,
    "large": pa.large_list,
    "fixed": lambda inner: pa.list_(inner, 3),
    "view": pa.list_view,
    "large view": pa.large_list_view,
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("inner", [pa.float32(), pa.float64(), pa.int64(), pa.int8()], ids=str)
def test_every_kind_of_list_is_a_list(tmp_path, kind, inner):
    """Whole, in pieces, cut from a longer column, and from a file by every reader."""
    kind = LISTS[kind](inner)
    column = pa.chunked_array([pa.array(ROWS[:1], type=kind), pa.array(ROWS[1:], type=kind)])
    for start in range(3):
        assert action_rows(pa.table({"action": column.slice(start)})).tolist() == ROWS[start:]
        assert action_rows(pa.table({"action": pa.array(ROWS, type=kind)}).slice(start, 1)).tolist() == [ROWS[start]]
    pq.write_table(pa.table({"action": column}), tmp_path / "a.parquet")
    assert read_actions(tmp_path / "a.parquet").tolist() == ROWS
    assert read_table(tmp_path / "a.parquet")["action"].tolist() == ROWS


def test_plain_numbers_are_one_control():
    assert action_rows(pa.table({"action": pa.array([3, 4])})).tolist() == [[3], [4]]


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array([[1.0, 2], [3, np.nan]]), "not finite in row 1, control 1"),
        (pa.array([[1.0, 2], [-np.inf, 2]]), "not finite in row 1, control 0: -inf"),
        (pa.array([[1.0, 1e300]]), "not finite in row 0, control 1: 1e"),
        (pa.array([[1.0, 2], [3, None]]), "null in row 1, control 1"),
        (pa.array([[1, 2], [None, 3]], type=pa.list_view(pa.int32())), "null in row 1, control 0"),
        (pa.array([[1.0, 2], None], type=pa.list_(pa.float32(), 2)), "row 1 is null"),
        (pa.array([1.0, 2, None]), "null in row 2, control 0"),
        (pa.array([[1.0, 2], [3, 4], [1, 2, 3]]), "row 2 has 3 numbers, the others have 2"),
        (pa.array([[], []], type=pa.list_(pa.float32())), "hold no numbers"),
        (pa.array([["1", "2"]]), "expected lists of numbers"),
        (pa.array(["[1, 2]"]), "is of string, expected lists of numbers"),
        (pa.array([[[1.0, 2]]]), "expected lists of numbers"),
        (pa.array([{"x": 1.0}]), "expected lists of numbers"),
        (pa.nulls(2), "expected lists of numbers"),
    ],
)
def test_a_fault_of_the_actions_is_told_with_row_and_control(tmp_path, column, told):
    with pytest.raises(ValueError) as caught:
        action_rows(pa.table({"action": column}))
    assert told in str(caught.value)


def test_another_name_of_the_column_is_told_with_the_key_that_takes_it():
    lists = pa.array([[1.0]])
    with pytest.raises(ValueError, match=r"columns: actions, t; set data\.action_key=actions$"):
        action_rows(pa.table({"actions": lists, "t": pa.array([0])}))
    with pytest.raises(ValueError, match=r"columns: joint_act, ee_act; set data\.action_key to the one"):
        action_rows(pa.table({"joint_act": lists, "ee_act": lists}))
    with pytest.raises(ValueError, match="has 2 columns 'action'"):
        action_rows(pa.Table.from_arrays([lists, lists], names=["action", "action"]))
