# SPDX-License-Identifier: Apache-2.0
"""Files of a released data set that cannot be read: refused by name, or skipped, counted and listed."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lerobot_sets import ROBOTWIN, latent_file
from released_sets import reader


def damage_truncate(segment):
    path = segment.latents(ROBOTWIN[1])
    path.write_bytes(path.read_bytes()[:-300])
    return path


def damage_bit(segment):
    path = segment.latents(ROBOTWIN[0])
    content = bytearray(path.read_bytes())
    at = content.find(torch.load(path, weights_only=True)["latent"].view(torch.int16).numpy().tobytes())
    content[at + 11] ^= 8
    path.write_bytes(content)
    return path


def damage_foreign(segment):
    path = segment.latents(ROBOTWIN[2])
    torch.save({"weights": torch.zeros(3)}, path)
    return path


def damage_rows(segment):
    path = segment.latents(ROBOTWIN[0])
    value = torch.load(path, weights_only=True)
    torch.save(value | {"start_frame": value["start_frame"] - 1}, path)
    return path


def damage_size(segment):
    path = segment.latents(ROBOTWIN[0])
    value = torch.load(path, weights_only=True)
    rng = np.random.default_rng(0)
    first = value["frame_ids"][0]
    text = value["text"]
    torch.save(
        latent_file(
            rng,
            (2, 2),
            frames=value["latent_num_frames"],
            first=first,
            stride=4,
            start=segment.start,
            end=segment.end,
            text=text,
        ),
        path,
    )
    return path


def damage_table(segment):
    segment.table.write_bytes(segment.table.read_bytes()[:200])
    return segment.table


def damage_table_gone(segment):
    segment.table.unlink()
    return segment.table


def damage_short(segment):
    table = pq.read_table(segment.table)
    pq.write_table(table.slice(0, segment.start + 20), segment.table)
    return segment.table


def damage_nan(segment):
    import pyarrow as pa

    rows = pq.read_table(segment.table).column("action").to_pylist()
    rows[segment.start + 9][4] = float("nan")
    pq.write_table(pa.table({"action": rows}), segment.table)
    return segment.table


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_truncate, "not a latent file"),
        (damage_bit, "damaged"),
        (damage_foreign, "expected a mapping with latent"),
        (damage_rows, "by its own account"),
        (damage_size, "half as high"),
        (damage_table, "not a readable parquet"),
        (damage_table_gone, "is missing"),
        (damage_short, "rows of actions"),
        (damage_nan, "not all finite"),
    ],
)
def test_a_bad_file_is_refused_by_name_or_skipped_counted_and_listed(roots, tmp_path, damage, reason):
    root = tmp_path / "copy"
    shutil.copytree(roots / "robotwin", root)
    clean = reader(root, "robotwin")
    # The last of its episode's, so that a damaged table hits one segment alone.
    victim = next(i for i, s in enumerate(clean.segments) if s.repo.name == "click_bell")
    path = damage(clean.segments[victim])
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as caught:
        reader(root, "robotwin").check(progress=False)
    assert str(path) in str(caught.value)
    data = reader(root, "robotwin", skip_bad=True)
    drawn = [data.describe(i) for i in range(40)]
    assert not any("click_bell" in text for text in drawn)
    assert len(data.bad.reasons) == 1
    assert reason.partition(" ")[0] in data.reasons[0]
    # What had been known before a draw does not change it.
    again = reader(root, "robotwin", skip_bad=True)
    assert len(again.check(progress=False)) == 1
    assert [again.describe(i) for i in reversed(range(40))] == drawn[::-1]
    untouched = [i for i in range(40) if "click_bell" not in clean.segments[clean._number(i)].repo.name]
    fresh = reader(roots / "robotwin", "robotwin")
    assert all(fresh.describe(i) == drawn[i] for i in untouched)


def test_a_repo_with_broken_meta_is_refused_by_name_or_skipped(roots, tmp_path):
    shutil.copytree(roots / "robotwin", tmp_path / "copy")
    info = tmp_path / "copy" / "aug_500" / "click_bell" / "meta" / "info.json"
    lines = info.with_name("episodes.jsonl")
    good = lines.read_bytes()
    again = json.dumps({"episode_index": 0, "length": 70, "action_config": []}).encode()
    for path, content, reason, left in (
        # A bad line costs the episode that it is of.
        (lines, good + b"\xff\xfe\n", "line 2", 4),
        (lines, good + again + b"\n", "line 2: episode 0 was at .* already", 4),
        (lines, good.replace(b'"end_frame": 70', b'"end_frame": 71'), "episode 0 of 70 rows", 3),
        (info, b"{", "not JSON", 3),
        (info, json.dumps({"fps": 10, "codebase_version": "v3.0"}).encode(), "flashwam convert", 3),
    ):
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name}.*{reason}"):
            reader(tmp_path / "copy", "robotwin")
        data = reader(tmp_path / "copy", "robotwin", skip_bad=True)
        assert len(data) == left
        assert len(data.bad.reasons) == 1
        path.write_bytes(before)
    assert len(reader(tmp_path / "copy", "robotwin")) == 4


def test_nothing_readable_is_an_error_even_when_skipping(roots, tmp_path):
    shutil.copytree(roots / "libero", tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*.pth"):
        path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"none of the 2 segments.*\.pth"):
        reader(tmp_path / "copy", "libero", skip_bad=True)
    (tmp_path / "copy" / "long" / "meta" / "info.json").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no data set.*info\.json: not JSON"):
        reader(tmp_path / "copy", "libero", skip_bad=True)
    (tmp_path / "copy" / "empty_emb.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"empty_emb\.pt is missing"):
        reader(tmp_path / "copy", "libero", skip_bad=True)


def test_empty_lines_are_passed_over_and_an_episode_listed_twice_is_refused(roots, tmp_path):
    shutil.copytree(roots / "robotwin", tmp_path / "copy")
    lines = tmp_path / "copy" / "aug_500" / "click_bell" / "meta" / "episodes.jsonl"
    good = lines.read_bytes()
    lines.write_bytes(b"\n" + good.replace(b"\n", b"\r\n \n") + b"\n\n")
    (lines.parent / "._episodes.jsonl").write_bytes(b"\0\5\26\7")
    hidden = tmp_path / "copy" / ".trash" / "old" / "meta" / "info.json"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"{")
    assert len(reader(tmp_path / "copy", "robotwin")) == 4
    lines.write_bytes(good + b"\n" + good)
    with pytest.raises(ValueError, match=r"line 3: episode 0 was at .*line 1 already"):
        reader(tmp_path / "copy", "robotwin")
