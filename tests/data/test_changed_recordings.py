# SPDX-License-Identifier: Apache-2.0
"""A conversion that goes on with other recordings than it began with is refused, and keeps what it has otherwise."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("av")

import av
import pyarrow.parquet as pq
import raw_sets
from raw_edits import edit_record, rewrite, run, table_of
from raw_sets import CAMERAS, LENGTHS, write_v2, write_video

from flashwam.data.segments import Segment
from flashwam.data.targets import PLAN_FILE

NOTES = "recordings"


def target(repo):
    return repo.parent.parent / "out" / repo.name


def files(repo):
    return {path: path.read_bytes() for path in sorted(target(repo).rglob("*")) if path.is_file()}


def refused(repo, told):
    before = files(repo)
    with pytest.raises(ValueError, match=told) as caught:
        run(repo)
    assert files(repo) == before
    return str(caught.value)


def other_actions(rows):
    return (np.asarray(rows, np.float32) + 1).tolist()


def test_other_rows_of_an_episode_are_refused_by_its_name(repo):
    run(repo)
    rewrite(repo, 1, other_actions)
    message = refused(repo, r"episode_000001.*rows")
    assert str(target(repo)) in message
    assert "another folder" in message


def test_a_data_set_that_was_numbered_anew_is_refused(tmp_path, monkeypatch):
    repo = tmp_path / "raw" / "towels"
    write_v2(repo)
    run(repo)
    shutil.rmtree(repo)
    # As after the first episode was deleted.
    shade = raw_sets.shade
    monkeypatch.setattr(raw_sets, "LENGTHS", LENGTHS[1:])
    monkeypatch.setattr(raw_sets, "CONFIG", {})
    monkeypatch.setattr(raw_sets, "shade", lambda episode, row, camera: shade(episode + 1, row, camera))
    write_v2(repo)
    assert "and 1 more" in refused(repo, r"episode_000000.*\(other rows; .*top.*\)")


def reencoded(repo):
    """The first camera's video of episode 0 with other pictures and of the same length."""
    path = repo / "videos" / "chunk-000" / CAMERAS[0] / "episode_000000.mp4"
    write_video(path, [200 - row for row in range(LENGTHS[0])], (48, 64))


def test_other_pictures_of_the_same_length_are_refused(tmp_path):
    repo = tmp_path / "raw" / "towels"
    write_v2(repo)
    run(repo)
    reencoded(repo)
    refused(repo, r"episode_000000.*other pictures of observation\.images\.top\)")


def remuxed(path):
    """The same compressed pictures in a file of other bytes."""
    old = path.with_name("old.mp4")
    path.rename(old)
    with av.open(str(old)) as source, av.open(str(path), "w") as copy:
        copy.metadata["title"] = "appended to"
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    assert path.read_bytes() != old.read_bytes()
    old.unlink()


def test_files_that_were_written_anew_with_the_same_recordings_are_no_change(repo):
    """Version 3 packs episodes into files, which appending writes anew."""
    run(repo)
    for path in sorted((repo / "videos").rglob("*.mp4")):
        remuxed(path)
    for path in sorted((repo / "data").rglob("*.parquet")):
        before = path.read_bytes()
        pq.write_table(pq.read_table(path), path, compression="gzip")
        assert path.read_bytes() != before
    before = files(repo)
    result = run(repo)
    assert (result.written, result.kept) == (0, 8)
    assert files(repo) == before


def test_episodes_of_older_conversions_are_compared_by_their_actions(repo):
    run(repo)
    shutil.rmtree(target(repo) / NOTES)
    assert run(repo).kept == 8
    assert not (target(repo) / NOTES).exists()
    rewrite(repo, 2, other_actions)
    refused(repo, r"episode_000002.*other actions")


def test_an_older_table_of_another_length_is_refused(tmp_path):
    repo = tmp_path / "raw" / "towels"
    write_v2(repo)
    run(repo)
    shutil.rmtree(target(repo) / NOTES)
    path = table_of(repo, 2)
    pq.write_table(pq.read_table(path).slice(0, 19), path)
    edit_record(repo, 2, lambda record: record | {"length": 19})
    refused(repo, r"episode_000002.*19 rows, not 21")


def test_a_killed_conversion_does_not_go_on_with_another_recording(repo):
    run(repo)
    Segment(repo=target(repo), episode=1, start=0, end=LENGTHS[1], chunk=0).table.unlink()
    rewrite(repo, 1, other_actions)
    refused(repo, r"episode_000001.*rows")


def test_what_the_message_names_is_made_anew_once_it_is_removed(repo):
    run(repo)
    rewrite(repo, 1, other_actions)
    refused(repo, r"remove .*episode_000001\*")
    gone = list(target(repo).rglob("episode_000001*"))
    assert len(gone) == 6
    for path in gone:
        path.unlink()
    result = run(repo)
    assert (result.written, result.kept) == (4, 4)
    assert run(repo).kept == 8


def test_another_instruction_of_the_same_rows_is_refused(repo):
    run(repo)
    edit_record(repo, 0, lambda record: record | {"tasks": ["iron"]})
    refused(repo, r"episode_000000.*other instructions.*'fold' there, 'iron' now")


def test_rows_that_are_divided_anew_are_made_beside_the_others(repo):
    run(repo)
    parts = [
        {"start_frame": 0, "end_frame": 13, "action_text": "open"},
        {"start_frame": 13, "end_frame": 26, "action_text": "wait"},
    ]
    edit_record(repo, 1, lambda record: record | {"action_config": parts})
    result = run(repo)
    assert (result.written, result.kept) == (2, 6)
    assert run(repo).kept == 8
    # And are held to what they are told to do as the first are.
    parts[1]["action_text"] = "fold"
    edit_record(repo, 1, lambda record: record | {"action_config": parts})
    refused(repo, r"episode_000001.*rows 13 to 26 'wait' there, 'fold' now")


@pytest.mark.parametrize("content", ['{"cameras": [', "[1]"])
def test_a_damaged_note_of_the_conversion_is_named(repo, content):
    run(repo)
    (path,) = (path for path in target(repo).parent.rglob(PLAN_FILE))
    path.write_text(content)
    refused(repo, r"conversion\.json")


def test_an_episode_whose_pictures_cannot_be_read_is_still_left_out(tmp_path):
    repo = tmp_path / "raw" / "towels"
    write_v2(repo)
    path = repo / "videos" / "chunk-000" / CAMERAS[1] / "episode_000001.mp4"
    write_video(path, [100] * 20, (48, 64))
    result = run(repo, skip_bad=True)
    assert [str(path) in reason for reason in result.bad.values()] == [True]
    assert run(repo, skip_bad=True).bad == result.bad
    notes = target(repo) / NOTES / "chunk-000"
    assert json.loads((notes / "episode_000000.json").read_text())["pictures"].keys() == set(CAMERAS)
