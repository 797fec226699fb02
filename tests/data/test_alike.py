# SPDX-License-Identifier: Apache-2.0
"""Several data sets that are converted and learned from together."""

import json
import logging

import numpy as np
import pytest

pytest.importorskip("av")

import raw_sets
from raw_edits import PLAN, encoders, rewrite

from flashwam.cli import main
from flashwam.data.alike import unlike_sets
from flashwam.data.convert import convert
from flashwam.data.segments import are_there, select_repos
from flashwam.data.summary import summary, summary_lines


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Two of one name, of one episode each."""
    monkeypatch.setattr(raw_sets, "LENGTHS", (21,))
    for day in ("monday", "tuesday"):
        raw_sets.write_v2(tmp_path / "raw" / day / "towels")
    return tmp_path / "raw"


def with_info(repo, change):
    path = repo / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def named(names):
    return lambda info: info["features"]["action"].update(names=names)


def converted(raw, **options):
    return convert(raw, raw.parent / "out", PLAN, encoders, progress=False, **options)


def test_data_sets_of_different_rates_are_told_by_a_conversion_and_by_who_learns_from_them(raw, caplog, monkeypatch):
    monkeypatch.setattr(raw_sets, "FPS", 30)
    raw_sets.write_v2(raw / "wednesday" / "towels")
    told = "different rates are mixed, 10 rows a second in monday/towels, tuesday/towels; 30 rows a second in wednesday"
    with caplog.at_level(logging.WARNING):
        done = converted(raw)
    assert told in caplog.text
    assert told in "\n".join(summary_lines(done))
    assert told in summary(done)["unlike"][0]
    caplog.clear()
    settings = [f"data.root={raw.parent / 'out'}", "data.tasks=['*']", "data.window_frames=2", "data.stride=2"]
    settings += [f"data.cameras=[{','.join(raw_sets.CAMERAS)}]", "data.camera_size=[16,16]", "data.held_out_every=null"]
    assert main(["check", "libero/flash_wam", *settings]) == 0
    assert told in caplog.text


def test_data_sets_that_name_their_controls_differently_are_told(raw, caplog):
    with_info(raw / "monday/towels", named(list("abcdefg")))
    assert converted(raw).unlike == []
    with_info(raw / "tuesday/towels", named({"motors": list("gfedcba")}))
    (told,) = converted(raw).unlike
    assert "a, b, c, d, e, f, g in monday/towels; g, f, e, d, c, b, a in tuesday/towels: one channel may mean" in told
    assert told in caplog.text
    with_info(raw / "tuesday/towels", named({"motors": list("abcdefg")}))
    assert converted(raw).unlike == []


def test_names_of_the_column_that_is_converted_count(raw):
    for day, names in (("monday", ["x"]), ("tuesday", ["y"])):
        feature = {"dtype": "float32", "shape": [1], "names": names}
        with_info(raw / day / "towels", lambda info, feature=feature: info["features"].update(joints=feature))
    repos = [raw / day / "towels" for day in ("monday", "tuesday")]
    assert unlike_sets(repos, raw) == []
    assert len(unlike_sets(repos, raw, key="joints")) == 1


@pytest.mark.parametrize("damage", ["{", '{"codebase_version": "v2.1"}'])
def test_a_data_set_that_cannot_be_read_is_left_out_and_the_others_are_converted(raw, damage):
    (raw / "tuesday/towels/meta/info.json").write_text(damage)
    with pytest.raises(ValueError, match=r"tuesday/towels/meta/info\.json"):
        converted(raw)
    done = converted(raw, skip_bad=True)
    assert (done.episodes, list(done.bad), done.unlike) == (1, [str(raw / "tuesday/towels")], [])


def test_episodes_of_data_sets_of_one_name_are_all_told_where_they_are_left_out(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    monkeypatch.setattr(raw_sets, "LENGTHS", (21, 21, 3))
    monkeypatch.setattr(raw_sets, "CONFIG", {})
    for day in ("monday", "tuesday"):
        raw_sets.write_v2(raw / day / "towels")
        rewrite(raw / day / "towels", 1, lambda rows: [[np.nan] * 7, *rows[1:]])
    # Episode 1 has a fault in its actions, the last is too short for a latent frame.
    done = converted(raw, skip_bad=True)
    assert done.episodes == 2
    assert set(done.bad) == {
        f"{day}/towels/episode_{what}" for day in ("monday", "tuesday") for what in ("000001", "000002 rows 0 to 3")
    }


def test_a_data_set_whose_name_is_a_pattern_can_be_chosen(tmp_path):
    for name in ("day [1]", "day 1", "day 2", "all*"):
        (tmp_path / name / "meta").mkdir(parents=True)
        (tmp_path / name / "meta/info.json").write_text('{"fps": 10}')

    def chosen(*tasks):
        assert are_there(tmp_path, tasks) == list(tasks)
        return [repo.name for repo in select_repos(tmp_path, tasks)]

    assert chosen("day [1]") == ["day [1]"]
    assert chosen("all*") == ["all*"]
    assert chosen("day [12]") == ["day 1", "day 2"]
    assert chosen("day*", "all*") == ["all*", "day 1", "day 2", "day [1]"]
    assert are_there(tmp_path, ["day [3]"]) == []
