# SPDX-License-Identifier: Apache-2.0
"""Windows that a model is judged by while it is trained, beside those of an evaluation."""

from types import SimpleNamespace

import pytest
from lerobot_sets import LIBERO, write_set

from flashwam.evaluation.windows import JUDGED_WINDOWS, different_windows, find_windows, judged_draws
from flashwam.pipeline.norms import action_norm
from flashwam.recipe.load import load_recipe
from flashwam.run.recordings import RecordingNumbers

WAM = SimpleNamespace(shapes={"video": (4, 2, 7), "action": (30, 4, 1)}, senses={}, text_shape=(None, None))


def sources(root, *, frames, first_share=0.0):
    """An evaluation's and the judge's, of the episodes that are held out below `root`: the last of two."""
    own = [f"data.root={root}", "data.tasks=[monday,tuesday]", f"data.window_frames={frames}", "data.held_out_every=2"]
    own += [f"data.cameras=[{','.join(LIBERO)}]", f"data.first_share={first_share}"]
    recipe = load_recipe("libero/flash_wam", own)
    told = {"split": "val", "held_out": True}
    return (
        find_windows(recipe.data, action_norm(recipe), WAM, **told, **more).source
        for more in ({}, {"seed": JUDGED_WINDOWS})
    )


def places(source, draws):
    return [source.locate(number) for number in draws]


def written(root, *, frames, episodes=4):
    rows = 4 * (frames - 1) + 1
    plan = [(rows, [(0, rows, 0, frames)])] * episodes
    write_set(root, "libero", {"monday": plan, "tuesday": plan})
    return root


@pytest.mark.parametrize("first_share", [0.0, 0.5])
def test_a_window_of_an_evaluations_is_replaced_by_another_of_its_kind(tmp_path, first_share, caplog):
    evaluation, judge = sources(written(tmp_path, frames=24, episodes=80), frames=4, first_share=first_share)
    drawn, first = places(evaluation, range(32)), places(judge, range(64))
    assert set(drawn) & set(first)
    draws = judged_draws(judge, 64)
    chosen = places(judge, draws)
    assert not set(drawn) & set(chosen)
    for before, after in zip(first, chosen, strict=True):
        assert (
            after == before
            if before not in drawn
            else (after.repo, after.frame == 0)
            == (
                before.repo,
                before.frame == 0,
            )
        )
    assert caplog.text == ""
    assert draws == judged_draws(judge, 64)


def test_of_few_episodes_as_many_as_can_be_are_others_and_the_log_says_how_many_are_not(tmp_path, caplog):
    evaluation, judge = sources(written(tmp_path, frames=9), frames=8)
    drawn = places(evaluation, range(32))
    # Two beginnings of each of four episodes.
    assert len(set(drawn)) == different_windows(evaluation, 32) == 8
    assert judged_draws(judge, 6) == list(range(6))
    assert "6 of the judge's 6 windows are among the 32 that an evaluation draws" in caplog.text


def test_an_evaluation_says_how_many_of_its_windows_are_different():
    told = {"windows": 32, "episodes": 4, "draws": 8, "names": (), "units": ()}
    assert RecordingNumbers(**told, different=8).counted == "32 windows (8 different)"
    assert RecordingNumbers(**told, different=32).counted == RecordingNumbers(**told).counted == "32 windows"
