# SPDX-License-Identifier: Apache-2.0
"""A rate that the rows' own times gainsay pairs pictures with the actions of other rows, so it is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("av")

from raw_edits import rewrite, run
from raw_sets import CAMERAS, FPS, write_v2

from flashwam.data.rates import check_rate
from flashwam.data.raw_windows import RawWindows


def say_rate(repo, fps):
    path = repo / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fps": fps}))


def never():
    raise AssertionError("encoders were made")


@pytest.mark.parametrize("fps", [20, 5, 11])
def test_a_wrong_rate_is_refused_before_anything_is_encoded(repo, fps):
    say_rate(repo, fps)
    told = rf"episode 0: rows are 0\.1 s apart by their column 'timestamp', meta/info\.json says {fps} rows a second"
    with pytest.raises(ValueError, match=told):
        run(repo, make=never)
    with pytest.raises(ValueError, match=told):
        RawWindows(repo.parent, cameras=CAMERAS, least=4)


def test_the_episode_alone_is_left_out_whose_times_are_of_another_rate(repo):
    rewrite(repo, 2, lambda times: [time / 3 for time in times], column="timestamp")
    result = run(repo, skip_bad=True)
    assert (result.episodes, list(result.bad)) == (2, ["towels/episode_000002"])
    assert "0.0333 s apart" in result.bad["towels/episode_000002"]


@pytest.mark.parametrize(
    "times",
    [
        [0.0] * 26,
        [None] * 26,
        ["noon"] * 26,
        [1.7e9 + row / FPS for row in range(26)],
        [round(row / FPS) for row in range(26)],
        [100 * row for row in range(26)],
    ],
    ids=["constant", "null", "texts", "since 1970", "whole seconds", "milliseconds"],
)
def test_times_that_prove_nothing_refuse_nothing(tmp_path, times):
    repo = tmp_path / "raw" / "towels"
    write_v2(repo)
    rewrite(repo, 0, lambda rows: times, column="timestamp", kind=None if times[0] is not None else pa.float32())
    assert run(repo).episodes == 3


def test_rates_near_the_times_pass():
    rows = np.arange(300)
    rounded = np.round(rows / 60, 2)
    dropped = np.delete(rows, range(10, 60, 2)) / 30
    late = rows / 30 + np.where(rows % 10 == 0, 0.02, 0)
    for fps, times in ((60, rounded), (30, dropped), (30, late), (29.97, rows / 30), (30, np.float32(1e6 + rows / 30))):
        check_rate(pa.chunked_array([pa.array(times)]), fps)
    few = pa.chunked_array([pa.array([0.0, 0.3, 0.6])])
    check_rate(few, 30)
    check_rate(pa.chunked_array([pa.array([np.nan, np.inf] * 10)]), 30)
    with pytest.raises(ValueError, match=r"0\.0333 s apart"):
        check_rate(pa.chunked_array([pa.array(rows / 30)]), 15)
