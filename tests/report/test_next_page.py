# SPDX-License-Identifier: Apache-2.0
from synthetic import evaluation, write

from flashwam.report.compare import compare, gather
from flashwam.report.next_page import next_section


def test_the_last_section_goes_on_with_the_best_student(tmp_path):
    best = write(tmp_path / "runs" / "a b", evaluation("best", rates=0.9), metrics=[{"step": 1}])
    other = write(tmp_path / "runs" / "other", evaluation("other", rates=0.2))
    (best / "recipe.yaml").touch()
    (best / "student").mkdir()
    serve, again, why = next_section(gather([best, other], tmp_path / "out")[0]).notes
    assert f"`flashwam serve '{best}/student'`" in serve
    assert f"`flashwam distill '{best}' seed=1 run_dir='{best}_seed1'`" in again
    assert f"`flashwam analyze '{best}' --checkpoint '{best}'`" in why


def test_a_page_of_a_named_recipe_ends_with_the_command_that_trains_it(tmp_path):
    run = write(tmp_path / "pairs", evaluation("pairs", rates=0.9))
    compare([run], out=tmp_path / "out")
    text = (tmp_path / "out" / "compare.html").read_text()
    assert "Train pairs yourself: <code>flashwam distill pairs</code>" in text


def test_there_is_nothing_to_say_of_a_student_of_unknown_make(tmp_path):
    rows = gather([write(tmp_path / "flash", evaluation("nobody_knows"))], tmp_path / "out")[0]
    assert next_section(rows) is None
    assert next_section(rows, ["`x`"]).notes == ["`x`"]
