# SPDX-License-Identifier: Apache-2.0
"""Changes to raw data sets of either version, and converting them with an encoder that costs nothing."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from raw_sets import CAMERAS

from flashwam.data.conversion import ConversionPlan
from flashwam.data.convert import convert
from flashwam.data.encoders import Encoders
from flashwam.data.hashed_text import encode_text

PLAN = ConversionPlan(cameras=CAMERAS, layout="width", size=(16, 16), stride=2)


def encoders():
    """Keeps every picture's mean."""
    return Encoders(
        video=lambda pixels: pixels.mean((2, 3), keepdim=True)[:, ::4],
        text=encode_text,
        pictures_per_frame=4,
        name="means",
    )


def table_of(repo, episode):
    """The file that holds an episode."""
    for path in sorted((repo / "data").rglob("*.parquet")):
        if episode in pq.read_table(path)["episode_index"].to_pylist():
            return path
    raise AssertionError


def rewrite(repo, episode, change, *, column="action", kind=None):
    """Puts `change(rows)` in the place of an episode's values; `kind` is the column's new type."""
    path = table_of(repo, episode)
    table = pq.read_table(path)
    values = table[column].to_pylist()
    mine = [row for row, owner in enumerate(table["episode_index"].to_pylist()) if owner == episode]
    values[mine[0] : mine[-1] + 1] = change(values[mine[0] : mine[-1] + 1])
    place = table.column_names.index(column)
    if kind is None and column == "action":
        kind = pa.list_(pa.float32())
    pq.write_table(table.set_column(place, column, pa.array(values, type=kind)), path)
    return path


def run(repo, *, plan=PLAN, make=encoders, out="out", **options):
    return convert(repo.parent, repo.parent.parent / out, plan, make, progress=False, **options)


def episodes(repo, out="out"):
    """The episodes that `meta/` of the result lists."""
    path = repo.parent.parent / out / repo.name / "meta" / "episodes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def edit_record(repo, episode, change):
    """Puts `change(record)` in the place of an episode's record in `meta/`; returns the file."""
    lines = repo / "meta" / "episodes.jsonl"
    if lines.is_file():
        records = [json.loads(line) for line in lines.read_text().splitlines()]
        records = [change(one) if one["episode_index"] == episode else one for one in records]
        lines.write_text("".join(json.dumps(one) + "\n" for one in records))
        return lines
    for path in sorted((repo / "meta" / "episodes").rglob("*.parquet")):
        records = pq.read_table(path).to_pylist()
        if any(one["episode_index"] == episode for one in records):
            records = [change(one) if one["episode_index"] == episode else one for one in records]
            # pyarrow cannot mix texts and lists in a column; what another record has is kept.
            columns = {key: [one.get(key) for one in records] for key in {k: 0 for one in records for k in one}}
            if any(isinstance(tasks, str) for tasks in columns["tasks"]):
                columns["tasks"] = [tasks if isinstance(tasks, str) else tasks[0] for tasks in columns["tasks"]]
            pq.write_table(pa.table(columns), path)
            return path
    raise AssertionError


def write_tasks(repo, texts, *, column="__index_level_0__"):
    """`meta/tasks` as either version has it."""
    records = [{"task_index": number, "task": text} for number, text in enumerate(texts)]
    if (repo / "meta" / "episodes.jsonl").is_file():
        (repo / "meta" / "tasks.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    else:
        table = pa.table({"task_index": list(range(len(texts))), column: list(texts)})
        pq.write_table(table, repo / "meta" / "tasks.parquet")


def put(row, control, value):
    """A change that puts a value in a control of a row."""

    def change(rows):
        rows[row] = [*rows[row][:control], value, *rows[row][control + 1 :]]
        return rows

    return change
