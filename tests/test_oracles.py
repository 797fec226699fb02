# SPDX-License-Identifier: Apache-2.0
"""The original implementations' numbers come with the tests, and are asked for when they are missing."""

from pathlib import Path

import pytest
from oracles import ORACLES, oracle_folder

FOLDER = Path(__file__).parent / "golden"


def test_they_come_with_the_tests_and_are_small(monkeypatch):
    monkeypatch.delenv("FLASHWAM_GOLDEN", raising=False)
    assert oracle_folder() == FOLDER.resolve()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5e6


@pytest.mark.parametrize("missing", ORACLES)
def test_one_that_is_missing_fails_the_test_by_name(missing, tmp_path, monkeypatch):
    for name in ORACLES:
        (tmp_path / name).touch()
    monkeypatch.setenv("FLASHWAM_GOLDEN", str(tmp_path))
    assert oracle_folder() == tmp_path
    (tmp_path / missing).unlink()
    with pytest.raises(pytest.fail.Exception, match=rf"lacks {missing}: .*FLASHWAM_GOLDEN"):
        oracle_folder()


def test_the_readme_names_each_of_them():
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{Path(name).stem}`" in text for name in ORACLES)
    assert {path.name for path in FOLDER.iterdir()} == {*ORACLES, "README.md"}
