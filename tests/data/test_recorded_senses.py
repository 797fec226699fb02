# SPDX-License-Identifier: Apache-2.0
"""The senses that recorded episodes give a model beside pictures and actions, and the rows its windows begin at."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot_sets import write_set
from released_sets import CAMERAS, PLAN, reader

from flashwam.data.latents import read_frame_rows


@pytest.fixture(scope="module", params=["robotwin", "libero"])
def told(request, tmp_path_factory):
    """A data set whose state is (row, 2 row)."""
    root = tmp_path_factory.mktemp(request.param)
    write_set(root, request.param, PLAN[request.param])
    for path in root.rglob("*.parquet"):
        table = pq.read_table(path)
        rows = [[row, 2 * row] for row in range(table.num_rows)]
        column = pa.array(rows, type=pa.list_(pa.float32()))
        pq.write_table(table.append_column("observation.state", column), path)
    return root, request.param


def test_the_state_is_that_of_every_latent_frames_last_picture(told):
    root, kind = told
    data = reader(root, kind, frames=4, senses=("state",))
    assert data.shapes["sense/state"] == (2,)
    batch = data.batch(range(30))
    assert batch.history["state"].shape == (30, 2, 4, 1, 1)
    assert set(batch.clean) == {"video", "action"}
    for index in range(30):
        window = data.locate(index)
        name, _, start = data.describe(index).partition(" from latent frame ")
        (segment,) = [s for s in data.segments if str(s) == name and s.repo == window.repo]
        pictures = torch.load(segment.latents(CAMERAS[kind][0]), weights_only=True)["frame_ids"]
        frames = (len(pictures) - 1) // 4
        expected = [pictures[4 * min(int(start) + f, frames)] for f in range(4)]
        assert batch.history["state"][index, 0, :, 0, 0].tolist() == expected
        assert batch.history["state"][index, 1, :, 0, 0].tolist() == [2 * row for row in expected]
        assert (window.row, window.frame, window.episode) == (expected[0], int(start), segment.episode)
        assert data.tables[window.repo, window.episode] == segment.table


def test_a_place_is_found_before_and_after_its_draw(told):
    root, kind = told
    data, again = (reader(root, kind, seed=3) for _ in range(2))
    before = [data.locate(index) for index in range(20)]
    again.batch(range(20))
    assert [again.locate(index) for index in range(20)] == before
    beginnings = again.beginnings()
    assert all(beginnings.locate(index).frame == 0 for index in range(20))
    assert any(window.frame for window in before)


def test_rows_of_latent_frames_are_read_without_their_latents(told):
    root, kind = told
    data = reader(root, kind)
    for number, segment in enumerate(data.segments):
        rows, stride = read_frame_rows(segment.latents(CAMERAS[kind][0]))
        sample = data.segment(number)
        assert len(rows) == sample.video.shape[1]
        assert (rows.start, rows.step) == (sample.first_row, sample.action.shape[2])
        assert stride == (4 if kind == "robotwin" else 1)


def test_a_file_without_rows_is_named(tmp_path):
    torch.save({"latent": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: expected a mapping with whole latent_num_frames"):
        read_frame_rows(tmp_path / "a.pth")


def test_a_state_that_is_missing_or_no_number_is_named(told, tmp_path):
    root, kind = told
    with pytest.raises(ValueError, match=r"no column 'observation\.touch'.*columns: action, .*observation\.state"):
        reader(root, kind, senses=("touch",))
    write_set(tmp_path, kind, PLAN[kind])
    for path in tmp_path.rglob("*.parquet"):
        table = pq.read_table(path)
        column = pa.array([[float("nan")]] * table.num_rows, type=pa.list_(pa.float32()))
        pq.write_table(table.append_column("observation.state", column), path)
    with pytest.raises(ValueError, match=r"'observation\.state' holds a number that is not finite in row \d"):
        reader(tmp_path, kind, senses=("state",))
