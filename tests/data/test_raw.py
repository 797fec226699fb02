# SPDX-License-Identifier: Apache-2.0
"""Records of raw data sets as people have them: several tasks, texts for lists, and what is no record at all."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("av")

from raw_edits import edit_record, episodes, rewrite, run, table_of, write_tasks
from raw_sets import CAMERAS, LENGTHS

from flashwam.data.bad_files import BadFiles
from flashwam.data.episodes import read_episode_list
from flashwam.data.raw import list_episodes
from flashwam.data.records import read_tasks

TWO = ["open the drawer", "put the cup on the stove"]


def segments(repo, episode, out="out"):
    (record,) = [one for one in episodes(repo, out) if one["episode_index"] == episode]
    return [(p["start_frame"], p["end_frame"], p["action_text"]) for p in record["action_config"]]


def with_tasks(tasks):
    return lambda record: {**record, "tasks": tasks}


@pytest.mark.parametrize("column", ["__index_level_0__", "task", "instruction"])
def test_every_run_of_rows_with_a_task_is_a_segment_of_its_text(repo, column):
    write_tasks(repo, [*TWO, "fold"], column=column)
    edit_record(repo, 0, with_tasks(TWO))
    rewrite(repo, 0, lambda rows: [1] * 9 + [0] * 17, column="task_index")
    edit_record(repo, 2, with_tasks(TWO))
    rewrite(repo, 2, lambda rows: [1] * 21, column="task_index")
    run(repo)
    assert segments(repo, 0) == [(0, 9, TWO[1]), (9, 26, TWO[0])]
    # Those of `action_config` are the set's own, and one task is one, whatever its number.
    assert segments(repo, 1) == [(0, 13, "open"), (13, 30, "shut")]
    assert segments(repo, 2) == [(0, 21, TWO[1])]
    listed = (repo.parent.parent / "out/towels/meta/tasks.jsonl").read_text().splitlines()
    assert set(TWO) < {json.loads(line)["task"] for line in listed}


def test_an_episode_of_one_task_needs_no_numbers(repo):
    rewrite(repo, 2, lambda rows: [9] * 21, column="task_index")
    edit_record(repo, 0, with_tasks(["fold", "fold"]))
    run(repo)
    assert segments(repo, 2) == [(0, 21, "fold")]
    assert segments(repo, 0) == [(0, 26, "fold")]


@pytest.mark.parametrize(
    ("tasks", "numbers", "known", "told"),
    [
        (TWO, [0] * 20 + [1] * 6, None, r"several tasks, but neither .*tasks\.jsonl nor tasks\.parquet"),
        (TWO, [0] * 20 + [2] * 6, TWO, r"row 20 has task_index 2, which meta/ gives no text; it has \[0, 1\]"),
        (TWO, [0] * 20 + [-1] * 6, TWO, r"row 20 has task_index -1"),
        (TWO, [0] * 20 + [None] * 6, TWO, "task_index is null in row 20"),
        (TWO, [0] * 20 + [2] * 6, [*TWO, "fold"], r"row 20 has task 2, 'fold', which is none of the episode's"),
        (["fold"], [0] * 20 + [1] * 6, TWO, "row 0 has task 0, 'open the drawer', which is none"),
        (TWO, ["a"] * 26, TWO, "task_index is of"),
        (TWO, [0.0] * 20 + [float("nan")] * 6, TWO, "task_index is nan in row 20, expected a whole number"),
        (TWO, [0.0] * 20 + [0.5] * 6, TWO, r"task_index is 0\.5 in row 20, expected a whole number"),
    ],
)
def test_tasks_that_cannot_be_resolved_cost_their_episode(repo, tasks, numbers, known, told):
    edit_record(repo, 0, with_tasks(tasks))
    if isinstance(numbers[0], str):
        path = table_of(repo, 0)
        table = pq.read_table(path)
        place = table.column_names.index("task_index")
        pq.write_table(table.set_column(place, "task_index", pa.array(["a"] * table.num_rows)), path)
        for episode in (1, 2):
            edit_record(repo, episode, lambda r: {**r, "action_config": [whole(r)]})
    else:
        rewrite(repo, 0, lambda rows: numbers, column="task_index")
    if known is not None:
        write_tasks(repo, known)
    with pytest.raises(ValueError, match=f"episode 0.*{told}"):
        run(repo)
    assert list(run(repo, skip_bad=True).bad) == ["towels/episode_000000"]
    assert [one["episode_index"] for one in episodes(repo)] == [1, 2]


def whole(record):
    return {"start_frame": 0, "end_frame": record["length"], "action_text": "fold"}


def test_a_file_of_tasks_that_contradicts_itself_is_refused(repo):
    write_tasks(repo, TWO)
    edit_record(repo, 0, with_tasks(TWO))
    path = repo / "meta" / "tasks.jsonl"
    if path.is_file():
        path.write_text(path.read_text() + json.dumps({"task_index": 0, "task": "another"}) + "\n\n")
    else:
        table = pa.table({"task_index": [0, 1, 0], "task": [*TWO, "another"]})
        pq.write_table(table, path.with_name("tasks.parquet"))
    with pytest.raises(ValueError, match=r"episode 0 has several tasks.*task 0 is 'another' here"):
        run(repo)


def test_a_text_counts_as_a_list_of_it(repo):
    edit_record(repo, 2, with_tasks("put the cup on the stove"))
    run(repo)
    assert segments(repo, 2) == [(0, 21, "put the cup on the stove")]


def test_a_list_of_texts_may_be_written_as_json(repo):
    write_tasks(repo, TWO)
    rewrite(repo, 2, lambda rows: [1] * 9 + [0] * 12, column="task_index")
    edit_record(repo, 2, with_tasks(json.dumps(TWO)))
    run(repo)
    assert segments(repo, 2) == [(0, 9, TWO[1]), (9, 21, TWO[0])]


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.large_string()])
def test_texts_of_any_kind_name_tasks(tmp_path, kind):
    (tmp_path / "meta").mkdir()
    column = pa.array(TWO).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(TWO, type=kind)
    pq.write_table(pa.table({"task_index": [0, 1], "task": column}), tmp_path / "meta" / "tasks.parquet")
    assert read_tasks(tmp_path) == dict(enumerate(TWO))


def test_the_same_rows_have_one_instruction(repo):
    part = {"start_frame": 0, "end_frame": 21, "action_text": "open"}
    edit_record(repo, 2, lambda record: {**record, "action_config": [part, part]})
    (_, _, episode) = list_episodes(repo, cameras=CAMERAS)
    assert episode.segments == ((0, 21, "open"),)
    edit_record(repo, 2, lambda record: {**record, "action_config": [part, {**part, "action_text": "shut"}]})
    with pytest.raises(ValueError, match="two segments from row 0 to 21, 'open' and 'shut'"):
        list_episodes(repo, cameras=CAMERAS)


@pytest.mark.parametrize("lost", ["*.parquet", "*.mp4", "info.json", "episodes.jsonl"])
def test_a_pointer_of_git_lfs_is_told_as_such(repo, lost):
    for path in sorted(repo.rglob(lost)) or repo.rglob("*.parquet"):
        path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    with pytest.raises(ValueError, match=r"is a Git LFS pointer of 12,345 bytes: run git lfs pull"):
        run(repo)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"fps": true}', b'{"fps": Infinity}', b'{"fps": "10"}'])
def test_an_info_that_is_none_is_refused_in_a_sentence(raw, tmp_path, content):
    shutil.copytree(raw / "v2", tmp_path / "raw")
    (tmp_path / "raw/towels/meta/info.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"info\.json: (not JSON|expected a mapping with a positive fps)"):
        run(tmp_path / "raw/towels")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tasks": []}, r"tasks is \[\], expected a list of at least one text"),
        ({"tasks": None}, "no tasks"),
        ({"tasks": "['fold']"}, "expected texts, not how a list of them is printed"),
        ({"tasks": "[]"}, r"tasks is \[\], expected a list of at least one text"),
        ({"tasks": [None]}, r"tasks is \[None\], expected"),
        ({"tasks": ["fold", None]}, "expected a list of at least one text"),
        ({"length": None}, "no length"),
        ({"length": 0}, "has no rows"),
        ({"length": -3}, "length is -3, expected a whole number of at least 0"),
        ({"action_config": [{"start_frame": 0, "end_frame": 99, "action_text": "x"}]}, "from row 0 to 99 of 21"),
        ({"action_config": [{"start_frame": 0, "end_frame": 9, "action_text": None}]}, "no action_text"),
        ({"action_config": [{"start_frame": None, "end_frame": 9, "action_text": "x"}]}, "no start_frame"),
    ],
)
def test_a_record_that_is_no_good_costs_its_episode(repo, change, told):
    path = edit_record(repo, 2, lambda record: {**record, **change})
    with pytest.raises(ValueError, match=told) as caught:
        list_episodes(repo, cameras=CAMERAS)
    assert str(caught.value).startswith(f"{path}, ")
    bad = BadFiles(skip=True)
    assert [one.index for one in list_episodes(repo, cameras=CAMERAS, bad=bad)] == [0, 1]
    assert len(bad.reasons) == 1


@pytest.mark.parametrize(("key", "value"), [("tasks", 5), ("length", "many"), ("length", True), ("episode_index", 1.5)])
def test_what_only_json_can_hold_is_refused_too(raw, tmp_path, key, value):
    shutil.copytree(raw / "v2", tmp_path / "raw")
    edit_record(tmp_path / "raw" / "towels", 2, lambda record: {**record, key: value})
    with pytest.raises(ValueError, match=rf"line 3: not an episode's record \({key} is {value!r}, expected"):
        list_episodes(tmp_path / "raw" / "towels", cameras=CAMERAS)


def test_an_episode_listed_twice_is_kept_once_and_said(repo):
    if (repo / "meta" / "episodes.jsonl").is_file():
        lines = repo / "meta" / "episodes.jsonl"
        lines.write_text(lines.read_text() + lines.read_text().splitlines()[1] + "\n")
    else:
        path = repo / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        shutil.copy(path, path.with_name("file-002.parquet"))
    with pytest.raises(ValueError, match=r"episode [01] was at .* already"):
        list_episodes(repo, cameras=CAMERAS)
    bad = BadFiles(skip=True)
    assert [one.index for one in list_episodes(repo, cameras=CAMERAS, bad=bad)] == [0, 1, 2]
    assert bad.reasons


def test_hidden_files_and_empty_lines_are_passed_over(repo):
    lines = repo / "meta" / "episodes.jsonl"
    if lines.is_file():
        lines.write_bytes(b"\r\n" + lines.read_bytes().replace(b"\n", b"\n \t\n") + b"\n\n")
    else:
        for name in ("chunk-000/._file-000.parquet", "chunk-000/.DS_Store", ".cache/file-000.parquet"):
            path = repo / "meta" / "episodes" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"\0\5\26\7" + b"\0" * 200)
    assert len(list_episodes(repo, cameras=CAMERAS)) == len(LENGTHS)


def test_a_null_of_a_camera_is_told_in_words(raw, tmp_path):
    shutil.copytree(raw / "v3", tmp_path / "raw")
    repo = tmp_path / "raw" / "towels"
    path = edit_record(repo, 1, lambda r: {**r, f"videos/{CAMERAS[1]}/from_timestamp": None})
    with pytest.raises(ValueError) as caught:
        run(repo)
    assert str(caught.value) == f"{path}, row 1: not an episode's record (no from_timestamp for camera {CAMERAS[1]})"
    result = run(repo, skip_bad=True)
    assert (result.episodes, list(result.bad)) == (2, [f"{path}, row 1"])


@pytest.mark.parametrize("line", [b"{", b"[1, 2]", b"null", b"\xff\xfe", b"[" * 100_000, b'"episode"'])
def test_a_line_that_is_no_record_costs_itself_alone(raw, tmp_path, line):
    shutil.copytree(raw / "v2", tmp_path / "raw")
    repo = tmp_path / "raw" / "towels"
    path = repo / "meta" / "episodes.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"line 1: (not JSON|expected an object)"):
        list_episodes(repo, cameras=CAMERAS)
    bad = BadFiles(skip=True)
    assert len(list_episodes(repo, cameras=CAMERAS, bad=bad)) == 3
    assert list(bad.reasons) == [f"{path}, line 1"]


def test_a_file_of_records_that_cannot_be_read_costs_its_own(raw, tmp_path):
    shutil.copytree(raw / "v3", tmp_path / "raw")
    repo = tmp_path / "raw" / "towels"
    path = repo / "meta" / "episodes" / "chunk-000" / "file-001.parquet"
    path.write_bytes(b"PAR1" * 9)
    bad = BadFiles(skip=True)
    assert [one.index for one in list_episodes(repo, cameras=CAMERAS, bad=bad)] == [0, 1]
    assert list(bad.reasons) == [str(path)]


@pytest.mark.parametrize(
    "pattern", ["/etc/{episode_index}", "../{episode_index}", "data/{episode_index:q}", "data/{0}"]
)
def test_a_pattern_of_paths_names_files_of_the_set_alone(raw, tmp_path, pattern):
    shutil.copytree(raw / "v2", tmp_path / "raw")
    path = tmp_path / "raw" / "towels" / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_path": pattern}))
    with pytest.raises(ValueError, match=r"data_path .* of meta/info\.json names no file of the data set"):
        list_episodes(tmp_path / "raw" / "towels", cameras=CAMERAS)


def test_what_is_too_short_for_a_sample_is_found_before_a_picture_is_encoded(repo):
    write_tasks(repo, [*TWO, "fold"])
    edit_record(repo, 0, with_tasks(TWO))
    rewrite(repo, 0, lambda rows: [0] * 23 + [1] * 3, column="task_index")
    with pytest.raises(ValueError, match=r"rows 23 to 26 of episode 0 hold 1 pictures; a sample needs 5"):
        run(repo)
    assert list(run(repo, skip_bad=True).bad) == ["towels/episode_000000 rows 23 to 26"]
    assert segments(repo, 0) == [(0, 23, TWO[0])]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"length": None}, "no length"),
        ({"length": True}, "length is True, expected a number"),
        ({"action_config": None}, "action_config is None"),
        ({"action_config": [None]}, r"action_config is \[None\]"),
        ({"action_config": [{"start_frame": 0, "end_frame": 20.5}]}, r"end_frame is 20\.5, expected a whole number"),
    ],
)
def test_a_record_of_a_converted_set_is_read_as_strictly(tmp_path, change, told):
    (tmp_path / "meta").mkdir()
    record = {"episode_index": 0, "length": 21, "action_config": []}
    (tmp_path / "meta/episodes.jsonl").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=rf"line 1: expected episode_index, length and action_config.*{told}"):
        read_episode_list(tmp_path)
