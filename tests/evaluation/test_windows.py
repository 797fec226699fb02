# SPDX-License-Identifier: Apache-2.0
"""Episodes are called held out only where a model says what it was made from."""

from types import SimpleNamespace

import pytest

from flashwam.evaluation import windows
from flashwam.recipe.load import load_recipe


@pytest.mark.parametrize(("made_from", "held_out"), [(None, None), ("other", True)])
def test_what_is_not_known_of_episodes_is_not_said(made_from, held_out, tmp_path, monkeypatch):
    def recipe(folder):
        return load_recipe("videovla/robot/teacher", [f"data.root={tmp_path / folder}"])

    made = None if made_from is None else recipe(made_from)
    model = SimpleNamespace(info=SimpleNamespace(recipe=made), folder=tmp_path, wam=None, name="model")
    monkeypatch.setattr(windows, "_norm", lambda *arguments: None)
    monkeypatch.setattr(windows, "_autoencoder", lambda *arguments: None)
    monkeypatch.setattr(windows, "find_windows", lambda *arguments, **keywords: keywords)
    assert windows.recorded_windows(model, recipe("here"))["held_out"] is held_out
