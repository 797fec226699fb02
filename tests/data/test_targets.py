# SPDX-License-Identifier: Apache-2.0
"""A conversion writes into folders of its own: a data set that no conversion made is refused, not overwritten."""

import json
import shutil

import pytest

pytest.importorskip("av")

from raw_edits import run
from raw_sets import CAMERAS, write_v3


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def never():
    raise AssertionError("encoders were made")


def refused(repo, out, **options):
    before = files(out)
    with pytest.raises(ValueError, match="holds a data set that no conversion made") as caught:
        run(repo, out=out.name, make=never, **options)
    assert files(out) == before
    assert str(out / repo.name) in str(caught.value)


def released(repo):
    """As other tools leave a data set: latents beside the videos."""
    folder = repo / "latents" / "chunk-000" / CAMERAS[0]
    folder.mkdir(parents=True)
    (folder / "episode_000000_0_26.pth").write_bytes(b"theirs")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_raw_data_set_in_the_place_of_the_result_is_left_alone(repo, tmp_path, skip_bad):
    """Of either version, and where the rows of the two are the same."""
    write_v3(tmp_path / "other" / "towels")
    refused(repo, tmp_path / "other", skip_bad=skip_bad)
    shutil.copytree(repo.parent, tmp_path / "copy")
    refused(repo, tmp_path / "copy", skip_bad=skip_bad)
    released(tmp_path / "copy" / "towels")
    refused(repo, tmp_path / "copy", skip_bad=skip_bad)


def test_neither_is_one_that_was_put_beside_a_conversion(repo, tmp_path):
    run(repo)
    shutil.rmtree(tmp_path / "out" / "towels")
    shutil.copytree(repo, tmp_path / "out" / "towels")
    refused(repo, tmp_path / "out")
    released(tmp_path / "out" / "towels")
    refused(repo, tmp_path / "out")


def test_the_metadata_of_another_data_set_is_not_taken_back(repo, tmp_path):
    """Of a data set nothing of which can be read."""
    shutil.copytree(repo, tmp_path / "raw" / "broken")
    for path in (tmp_path / "raw" / "broken").rglob("*.mp4"):
        path.write_bytes(b"junk")
    write_v3(tmp_path / "other" / "broken")
    before = files(tmp_path / "other")
    with pytest.raises(ValueError, match=r"broken holds a data set that no conversion made.*another folder"):
        run(repo, out="other", skip_bad=True)
    assert files(tmp_path / "other") == before


def test_a_folder_that_is_a_data_set_itself_receives_none(repo, tmp_path):
    write_v3(tmp_path / "other" / "cups")
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"cups holds a data set that no conversion made"):
        run(repo, out="other/cups")
    assert files(tmp_path) == before


def test_a_result_that_is_a_link_to_recordings_is_refused(repo, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "towels").symlink_to(repo)
    refused(repo, tmp_path / "out")
    assert "codebase_version" in json.loads((repo / "meta" / "info.json").read_text())


@pytest.mark.parametrize("gone", [["recordings"], ["latents"], ["recordings", "latents"], []])
def test_a_conversion_goes_on_with_what_it_still_has(repo, tmp_path, gone):
    """One of an earlier version has no notes of recordings."""
    run(repo)
    made = tmp_path / "out" / "towels"
    for name in gone:
        shutil.rmtree(made / name)
    for path in made.rglob("episode_000001*"):
        path.unlink()
    assert run(repo).episodes == 3


def test_a_linked_folder_is_looked_into(repo, tmp_path):
    shutil.copytree(repo, tmp_path / "far" / "towels")
    (tmp_path / "out").symlink_to(tmp_path / "far")
    refused(repo, tmp_path / "out")
