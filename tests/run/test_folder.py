# SPDX-License-Identifier: Apache-2.0
"""The places in which a run keeps things; that a run is never overwritten is tested with the recipes."""

from pathlib import Path

import pytest

from flashwam.recipe.load import load_recipe
from flashwam.run.folder import INFO_FILE, RunFolder, prepare_run


@pytest.mark.parametrize("model", ["run/student", "run/teacher", "run/steps/step_50"])
def test_a_model_knows_the_run_it_belongs_to(model):
    assert RunFolder.of_model(Path(model)) == RunFolder(Path("run"))


def test_models_that_stand_alone_share_no_evaluations():
    """Of one name and step in one folder, the second was answered with what was measured of the first."""
    one, other = (RunFolder.of_model(Path("checkpoints") / name) for name in ("one", "other"))
    assert (one.path, other.path) == (Path("checkpoints/one"), Path("checkpoints/other"))
    assert (one.name, one.evaluations) == ("one", Path("checkpoints/one/evaluations"))


def test_what_is_there_is_listed_by_name(tmp_path):
    run = RunFolder(tmp_path)
    assert (run.results, run.checkpoint_names, run.kept_names, run.evaluation_files, run.is_run) == (
        [],
        [],
        [],
        [],
        False,
    )
    for folder in (run.checkpoint(400), run.checkpoint(200), run.kept_step(50), run.result("student")):
        folder.mkdir(parents=True)
    (run.checkpoints / "step_000600").write_text("a file is no checkpoint")
    assert (run.results, run.is_run) == ([], True)
    (run.result("student") / INFO_FILE).write_text("{}")
    assert (run.results, run.kept_names) == ([tmp_path / "student"], ["step_50"])
    assert run.checkpoint_names == ["step_000200", "step_000400"]


def test_a_run_takes_on_further_steps_to_be_evaluated_at(tmp_path):
    def recipe(*settings):
        return load_recipe("metaworld/flash_wam", settings)

    run = prepare_run(recipe("evaluate.nfe=[1v/1a, 1v/2a]"), tmp_path / "run")
    prepare_run(recipe("evaluate.nfe=[1v/1a, 2v/2a]"), run)
    assert load_recipe(run / "recipe.yaml") == recipe("evaluate.nfe=[1v/1a, 2v/2a]")
    # A judge without steps of its own measured at the first while the model was trained.
    with pytest.raises(ValueError, match=r"evaluate\.nfe"):
        prepare_run(recipe("evaluate.nfe=[2v/2a, 1v/1a]"), run)
    with pytest.raises(ValueError, match=r"evaluate\.episodes"):
        prepare_run(recipe("evaluate.nfe=[1v/1a, 2v/2a]", "evaluate.episodes=3"), run)
