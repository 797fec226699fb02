# SPDX-License-Identifier: Apache-2.0
"""The hand's trajectory from any column: places as they are, steps by their sum."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flashwam.data.samples import Window
from flashwam.swiftvla.trajectories import HandPath, Trajectories

ROWS = 12


@dataclass
class Tables:
    """One episode's table."""

    tables: dict


@pytest.fixture
def told(tmp_path):
    """The action is the step that leads from a row's place to the next one's, in the columns 1, 2 and 3."""
    places = np.random.default_rng(0).normal(size=(ROWS + 1, 3)).cumsum(0).astype(np.float32)
    action = np.concatenate([np.zeros((ROWS, 1)), np.diff(places, axis=0)], 1).astype(np.float32)
    table = {"action": action.tolist(), "observation.state": places[:-1].tolist(), "timestamp": np.arange(ROWS) / 10}
    path = tmp_path / "one.parquet"
    pq.write_table(pa.table(table), path)
    return places, Tables(tables={(tmp_path, 0): path})


def window(data: Tables, row: int) -> Window:
    ((repo, episode),) = data.tables
    return Window(repo=repo, episode=episode, row=row, frame=row)


@pytest.mark.parametrize("row", [0, 5, 9])
def test_summed_steps_are_the_way_from_the_windows_first_frame(told, row):
    places, data = told
    read = Trajectories(data, points=2, horizon=4, path=HandPath(column="action", numbers=(1, 2, 3), summed=True)).read
    points, known = read(window(data, row))
    sums = places - places[0]
    ahead = np.minimum(row + np.array([2, 4]), ROWS)
    expected = (places[ahead] - places[row]) / sums.std(0, ddof=1)
    np.testing.assert_allclose(points.numpy(), expected, atol=1e-5)
    # After the last row's step there is one place more than rows.
    assert known.tolist() == [row + 2 <= ROWS, row + 4 <= ROWS]


def test_places_are_standardised(told):
    places, data = told
    points, known = Trajectories(data, points=2, horizon=4, path=HandPath(numbers=(2, 0))).read(window(data, 9))
    seen = places[:-1][:, [2, 0]]
    expected = (seen[[11, 11]] - seen.mean(0)) / seen.std(0, ddof=1)
    np.testing.assert_allclose(points.numpy(), expected, atol=1e-5)
    assert known.tolist() == [True, False]


def test_a_column_of_single_numbers_is_one_coordinate(told):
    _, data = told
    points, _ = Trajectories(data, points=1, horizon=4, path=HandPath(column="timestamp", numbers=(0,))).read(
        window(data, 0)
    )
    assert points.shape == (1, 1)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (HandPath(column="observation.hand"), r"no column 'observation\.hand'.*columns: action, observation\.state"),
        (HandPath(column="action", numbers=(4,)), r"'action' has 4 numbers a row.*\[4\]"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(told, path, words):
    with pytest.raises(ValueError, match=words):
        Trajectories(told[1], points=1, horizon=4, path=path)


def test_numbers_that_are_none_are_refused(told, tmp_path):
    column = pa.array([[float("nan")]] * 3, type=pa.list_(pa.float32()))
    pq.write_table(pa.table({"observation.state": column}), tmp_path / "two.parquet")
    with pytest.raises(ValueError, match=r"two\.parquet: .*not finite"):
        HandPath(numbers=(0,)).read(Path(tmp_path / "two.parquet"))
    with pytest.raises(ValueError, match=r"path\.numbers must be places"):
        HandPath(numbers=(-1,))
    assert torch.equal(HandPath(numbers=(0,)).read(told[1].tables[tmp_path, 0])[:, 0], torch.tensor(told[0][:-1, 0]))
