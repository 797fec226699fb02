# SPDX-License-Identifier: Apache-2.0
"""Streams that no file of a recipe has: a misspelt one is refused at the override, another is made."""

import pytest

from flashwam.cli import main
from flashwam.recipe.load import load_recipe


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("streams.vidoe.shift=2", "override 'streams.vidoe.shift=2': streams.vidoe: .*did you mean 'video'?"),
        ("streams.actions={shift: 1}", "streams.actions: .*did you mean 'action'?"),
        ("streams={acton: {shift: 1}}", "streams.acton: .*did you mean 'action'?"),
        ("streams.vidoe.steps=2", "streams.vidoe: .*did you mean 'video'?"),
    ],
)
def test_a_misspelt_stream_is_refused_where_it_is_written(override, told):
    with pytest.raises(ValueError, match=told):
        load_recipe("flash_wam", [override])


def test_the_command_says_it_in_one_sentence(capsys):
    assert main(["plan", "flash_wam", "streams.vidoe.shift=2"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "did you mean 'video'?" in line
    assert "evaluate.nfe" not in line


def test_another_stream_is_made_by_overrides_alone():
    own = ["streams.depth.shift=2", "streams.depth.steps=2", "evaluate.nfe=[full]"]
    assert load_recipe("flash_wam", own).streams["depth"].schedule.shift == 2
    # Of two new ones that are nearly the same neither is a slip.
    both = load_recipe("flash_wam", ["streams.wrist_1.shift=2", "streams.wrist_2.shift=3", "evaluate.nfe=[full]"])
    assert {"wrist_1", "wrist_2"} < set(both.streams)


def test_a_file_may_name_its_streams_as_it_likes(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: flash_wam\nstreams: {video2: {shift: 2}}\nevaluate: {nfe: [full]}\n")
    recipe = load_recipe(tmp_path / "own.yaml", ["streams.video2.shift=3"])
    assert recipe.streams["video2"].schedule.shift == 3
