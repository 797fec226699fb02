# SPDX-License-Identifier: Apache-2.0
"""Episodes of an evaluation that was stopped: each counts once, and one process writes them down."""

import json
from dataclasses import asdict, replace

import pytest

from flashwam.evaluation.libero_episodes import Ended, Unfinished
from flashwam.system.errors import FailedError, InputError

ABOUT = {"tasks": ["t"], "episodes": 4}


def ended(episode, *, success=True):
    return Ended(task="t", episode=episode, success=success, steps=9, chunk_ms=(1.0,))


def test_what_was_written_down_twice_counts_once(tmp_path):
    path = tmp_path / "unfinished" / "u.jsonl"
    path.parent.mkdir()
    lines = [ABOUT, *(asdict(ended(k, success=won)) for won in (True, False) for k in (0, 1))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Unfinished(path, ABOUT) as again:
        assert again.ended == [ended(0), ended(1)]
        again.add(ended(2))
    with Unfinished(path, ABOUT) as again:
        assert again.ended == [ended(0), ended(1), ended(2)]


def test_the_same_evaluation_is_not_driven_twice_at_once(tmp_path):
    path = tmp_path / "unfinished" / "u.jsonl"
    with Unfinished(path, ABOUT) as first:
        first.add(ended(0))
        with pytest.raises(FailedError, match="another process is driving"):
            Unfinished(path, ABOUT)
        first.add(ended(1))
        with Unfinished(path.with_name("other.jsonl"), ABOUT) as other:
            assert not other.ended
    with Unfinished(path, ABOUT) as again:
        assert again.ended == [ended(0), ended(1)]


@pytest.mark.parametrize("cut", ["", '{"tasks": ["t"'])
def test_a_file_that_was_stopped_while_it_was_begun_is_begun_anew(tmp_path, cut):
    (tmp_path / "u.jsonl").write_text(cut)
    with Unfinished(tmp_path / "u.jsonl", ABOUT) as begun:
        begun.add(ended(0))
    with pytest.raises(InputError, match="begun with other episodes"):
        Unfinished(tmp_path / "u.jsonl", {**ABOUT, "episodes": 5})
    with Unfinished(tmp_path / "u.jsonl", ABOUT) as again:
        assert again.ended == [ended(0)]


def test_what_an_earlier_version_did_not_write_down_is_no_difference(tmp_path):
    before = {**ABOUT, "convention": {"name": "common", "idle_steps": 10}}
    now = {**before, "convention": {**before["convention"], "rotation": "about the world's axes"}}
    with Unfinished(tmp_path / "u.jsonl", before) as begun:
        begun.add(ended(0))
    with Unfinished(tmp_path / "u.jsonl", now) as again:
        assert again.ended == [ended(0)]
    for other in ({"idle_steps": 3}, {"shading": "plain"}):
        with pytest.raises(InputError, match="begun with other convention"):
            Unfinished(tmp_path / "u.jsonl", {**now, "convention": {**now["convention"], **other}})
    with Unfinished(tmp_path / "v.jsonl", now):
        pass
    with pytest.raises(InputError, match="begun with other convention"):
        Unfinished(tmp_path / "v.jsonl", {**now, "convention": {**now["convention"], "rotation": "the hand's"}})


def test_settings_that_an_earlier_version_did_not_write_down_are_no_difference(tmp_path):
    with Unfinished(tmp_path / "u.jsonl", ABOUT) as begun:
        begun.add(ended(0))
    with Unfinished(tmp_path / "u.jsonl", {**ABOUT, "settings": {"vae/": "a"}}) as again:
        assert again.ended == [ended(0)]
    with Unfinished(tmp_path / "v.jsonl", {**ABOUT, "settings": {"vae/": "a"}}):
        pass
    for other in ({"vae/": "b"}, {}):
        with pytest.raises(InputError, match="begun with other settings"):
            Unfinished(tmp_path / "v.jsonl", {**ABOUT, "settings": other})


def test_an_episode_of_an_earlier_version_is_not_taken_for_one_that_ran_alone(tmp_path):
    before = asdict(ended(0))
    del before["alone"]
    (tmp_path / "u.jsonl").write_text(f"{json.dumps(ABOUT)}\n{json.dumps(before)}\n")
    with Unfinished(tmp_path / "u.jsonl", ABOUT) as again:
        again.add(replace(ended(1), alone=True))
    with Unfinished(tmp_path / "u.jsonl", ABOUT) as again:
        assert [one.alone for one in again.ended] == [False, True]
