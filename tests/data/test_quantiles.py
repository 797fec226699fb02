# SPDX-License-Identifier: Apache-2.0
"""Rows that quantiles are taken of: each counts once, however many clips have it."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flashwam.data.bad_files import BadFiles
from flashwam.data.coverage import coverage
from flashwam.data.quantiles import control_rows, norm_of

CAMERA = "top"


def write_clips(root, tables, clips):
    """A data set of tables [T, U], of each of which there are clips (start, end)."""
    repo, lines = root / "a", []
    for folder in ("meta", "data/chunk-000", f"latents/chunk-000/{CAMERA}"):
        (repo / folder).mkdir(parents=True)
    for number, (rows, parts) in enumerate(zip(tables, clips, strict=True)):
        column = pa.array(np.asarray(rows, np.float32).tolist(), type=pa.list_(pa.float32()))
        pq.write_table(pa.table({"action": column}), repo / f"data/chunk-000/episode_{number:06d}.parquet")
        for start, end in parts:
            (repo / f"latents/chunk-000/{CAMERA}/episode_{number:06d}_{start}_{end}.pth").touch()
        config = [{"start_frame": start, "end_frame": end, "action_text": "fold"} for start, end in parts]
        lines.append({"episode_index": number, "length": len(rows), "tasks": ["fold"], "action_config": config})
    (repo / "meta/info.json").write_text(json.dumps({"codebase_version": "v2.1", "fps": 10}))
    (repo / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def sliding(length, window, hop=1):
    return [(start, start + window) for start in range(0, length - window + 1, hop)]


def test_an_opening_motion_is_not_clipped_because_few_clips_have_it(tmp_path):
    rows = [np.random.default_rng(number).uniform(-0.1, 0.1, (60, 1)) for number in range(10)]
    for each in rows:
        each[:2] = -1
    root = write_clips(tmp_path, rows, [sliding(60, 21)] * 10)
    found = control_rows(root, cameras=[CAMERA])
    np.testing.assert_array_equal(found, np.concatenate(rows).astype(np.float32))
    norm = norm_of(found, channels=1)
    assert norm.q01[0] == -1
    assert coverage(np.concatenate(rows), norm)[0].clipped == 0


def test_rows_of_segments_that_do_not_overlap_are_all_of_them_in_order(tmp_path):
    rows = [np.random.default_rng(number).normal(size=(20, 2)) for number in range(2)]
    root = write_clips(tmp_path, rows, [[(0, 8), (8, 20)], [(3, 9), (12, 20)]])
    expected = np.concatenate([rows[0], rows[1][3:9], rows[1][12:20]]).astype(np.float32)
    np.testing.assert_array_equal(control_rows(root, cameras=[CAMERA]), expected)


def poses(count):
    """One arm that moves along x alone, a row at a time, and turns nowhere."""
    rows = np.zeros((count, 8))
    rows[:, 0], rows[:, 6] = np.arange(count), 1
    return rows


def test_relative_rows_are_taken_from_every_clip_and_weigh_alike(tmp_path):
    root = write_clips(tmp_path, [poses(9), poses(3)], [sliding(9, 4), [(0, 3)]])
    moved = control_rows(root, cameras=[CAMERA], relative=True)[:, 0]
    # Four clips at most have a row: each of the 12 rows is there four times.
    assert len(moved) == 4 * 12
    # Rows 3, 4 and 5 are in four clips, once at each distance from the first; a row of one clip is four times at its.
    # Its distances from the first row of its clips are spread over those four; the short episode's are 0, 1 and 2.
    assert [int((moved == distance).sum()) for distance in range(4)] == [
        4 + 2 + 2 + 3 + 4,
        2 + 1 + 3 + 2 + 4,
        1 + 3 + 1 + 2 + 4,
        3 + 1 + 2 + 4,
    ]


def test_a_row_is_taken_from_another_clip_where_the_first_cannot_be_read(tmp_path):
    rows = np.arange(12.0)[:, None]
    rows[1] = np.nan
    root = write_clips(tmp_path, [rows], [sliding(12, 6, 2)])
    bad = BadFiles(skip=True)
    found = control_rows(root, cameras=[CAMERA], bad=bad)
    np.testing.assert_array_equal(found[:, 0], np.arange(2.0, 12.0))
    assert len(bad.reasons) == 1


@pytest.mark.parametrize("relative", [False, True])
def test_of_some_clips_the_rows_weigh_as_among_all(tmp_path, relative):
    root = write_clips(tmp_path, [poses(30)] * 20, [sliding(30, 5)] * 20)
    every = control_rows(root, cameras=[CAMERA], relative=relative)
    some = control_rows(root, cameras=[CAMERA], relative=relative, most=130)
    assert len(every) == 600 * (5 if relative else 1)
    assert len(some) == pytest.approx(len(every) / 4, rel=0.2)


@pytest.mark.parametrize("constant", [0.0, 300.0, 4096.0, 30000.0, -30000.0, 9e8])
def test_a_constant_however_great_is_normalised_to_the_middle(constant):
    rows = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    rows[:, 1] = constant
    norm = norm_of(rows, channels=2)
    normalised = norm.normalise(torch.from_numpy(rows.T[:, :, None].copy()))
    assert normalised[1].abs().max() < 0.1
    np.testing.assert_allclose(norm.denormalise(normalised)[1], constant, rtol=1e-6, atol=1e-3)
    if abs(constant) < 10000:
        assert (norm.q01[1], norm.q99[1]) == (constant - 5e-4, constant + 5e-4)
