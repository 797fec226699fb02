# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass

import pytest

from flashwam.wam.wam_file import WAM_FILE, load_config, save_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    size: tuple[int, int]
    name: str = "x"


def load(folder, family="mine"):
    return load_config(folder, Config, family=family, missing="write one")


def test_a_config_is_what_was_saved(tmp_path):
    save_config(tmp_path, Config(size=(1, 2)), family="mine")
    assert load(tmp_path) == Config(size=(1, 2))


def test_another_familys_file_and_none_at_all_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{WAM_FILE} is missing: write one"):
        load(tmp_path)
    save_config(tmp_path, Config(size=(1, 2)), family="theirs")
    with pytest.raises(ValueError, match=rf"{WAM_FILE} must say family 'mine', got 'theirs': load it with its own"):
        load(tmp_path)


def test_a_field_that_the_config_does_not_have_is_refused(tmp_path):
    save_config(tmp_path, Config(size=(1, 2)), family="mine")
    path = tmp_path / WAM_FILE
    path.write_text(path.read_text().replace('"name"', '"colour"'))
    with pytest.raises(ValueError, match=r"unknown fields \['colour'\]"):
        load(tmp_path)
