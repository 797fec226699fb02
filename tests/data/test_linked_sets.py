# SPDX-License-Identifier: Apache-2.0
"""Data sets of which a folder is a link, as whoever has large disks lays them out."""

import shutil

import pytest

pytest.importorskip("av")

from raw_edits import run
from raw_sets import CAMERAS, write_v3

from flashwam.data.bad_files import BadFiles
from flashwam.data.records import parquet_rows
from flashwam.data.segments import find_segments, name_below, select_repos


def empty_set(repo):
    (repo / "meta").mkdir(parents=True)
    (repo / "meta" / "info.json").write_text('{"fps": 10}')


def names(root, tasks=None):
    return [name_below(repo, root) for repo in select_repos(root, tasks)]


def test_a_linked_data_set_is_converted_with_the_others_and_read(repo, tmp_path):
    write_v3(tmp_path / "disk" / "monday")
    (repo.parent / "monday").symlink_to(tmp_path / "disk" / "monday")
    assert run(repo).episodes == 6
    shutil.move(tmp_path / "out" / "monday", tmp_path / "disk" / "converted")
    (tmp_path / "out" / "monday").symlink_to(tmp_path / "disk" / "converted")
    found = find_segments(tmp_path / "out", cameras=CAMERAS)
    assert {segment.repo.name for segment in found} == {"monday", "towels"}
    assert run(repo).written == 0


def test_the_root_and_the_folders_between_may_be_links(tmp_path):
    for name in ("b/one", "b/.two", "a"):
        empty_set(tmp_path / "disk" / name)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "days").symlink_to(tmp_path / "disk")
    (tmp_path / "name").symlink_to(tmp_path / "root")
    for root in (tmp_path / "root", tmp_path / "name"):
        assert names(root) == ["days/a", "days/b/one"]
        assert names(root, ["b"]) == ["days/b/one"]


def test_two_names_of_a_data_set_are_two_of_which_a_word_is_said(tmp_path, caplog):
    empty_set(tmp_path / "one")
    (tmp_path / "latest").symlink_to(tmp_path / "one")
    assert names(tmp_path) == ["latest", "one"]
    assert f"{tmp_path / 'latest'} and {tmp_path / 'one'} are the same data set" in caplog.text
    caplog.clear()
    assert names(tmp_path, ["latest"]) == ["latest"]
    assert not caplog.text


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    empty_set(tmp_path / "a" / "one")
    (tmp_path / "a" / "one" / "up").symlink_to(tmp_path)
    assert names(tmp_path) == ["a/one"]


def test_records_in_a_linked_folder_are_read(tmp_path):
    write_v3(tmp_path / "one")
    records = tmp_path / "one" / "meta" / "episodes"
    shutil.move(records / "chunk-000", tmp_path / "chunk")
    (records / "chunk-000").symlink_to(tmp_path / "chunk")
    rows = parquet_rows(records, BadFiles())
    assert [row["episode_index"] for _, row in rows] == [0, 1, 2]


def test_a_data_set_that_is_linked_into_the_result_is_refused(repo, tmp_path):
    """Its recordings would be looked for in what is being written."""
    shutil.copytree(repo, tmp_path / "out" / "far")
    (repo.parent / "near").symlink_to(tmp_path / "out" / "far")
    with pytest.raises(ValueError, match=r"near must not lie in each other"):
        run(repo)
