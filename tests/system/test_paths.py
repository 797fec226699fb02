# SPDX-License-Identifier: Apache-2.0
import ast
import os
import sys
from pathlib import Path

import pytest

import flashwam
from flashwam.cli import main
from flashwam.system.paths import cache_folder, keep_compiled, user_path

SOURCES = sorted(Path(flashwam.__file__).parent.rglob("*.py"))


def test_a_leading_tilde_is_the_home_folder_and_any_other_is_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("~/a/b", Path("~/a/b")):
        assert user_path(given) == tmp_path / "a" / "b"
    assert user_path("~") == tmp_path
    for given in ("a/~/b", "./~", "a~", "/~/a"):
        assert user_path(given) == Path(given)
    with pytest.raises(ValueError, match=r"~no_such_user/x: no home folder of no_such_user .* \./~no_such_user/x"):
        user_path("~no_such_user/x")


def test_the_cache_is_where_the_user_says_and_else_in_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for given, expected in (("~/mine", "mine"), ("", "xdg/flashwam")):
        monkeypatch.setenv("FLASHWAM_CACHE", given)
        assert cache_folder() == tmp_path / expected
    for relative in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache_folder() == tmp_path / ".cache" / "flashwam"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "flashwam"
    assert not list(tmp_path.iterdir()), "nothing is made by asking"


def test_no_path_that_a_user_may_give_as_text_is_taken_letter_by_letter():
    """A parameter annotated `str | Path` becomes a path by `user_path` alone."""
    wrong = []
    for source in SOURCES:
        text = source.read_text()
        for function in ast.walk(ast.parse(text)) if "str | Path" in text or "Path | str" in text else ():
            if source.name == "paths.py" or not isinstance(function, ast.FunctionDef):
                continue
            given = [*function.args.args, *function.args.kwonlyargs]
            hints = {each.arg: ast.unparse(each.annotation) for each in given if each.annotation}
            texts = {name for name, hint in hints.items() if "str" in hint and "Path" in hint}
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and ast.unparse(call.func) in ("Path", "pathlib.Path"):
                    wrong += [f"{source.name}:{call.lineno}" for each in call.args if ast.unparse(each) in texts]
    assert not wrong, f"use flashwam.system.paths.user_path: {wrong}"


def test_what_is_compiled_is_kept_in_the_packages_folder_where_nothing_else_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHWAM_CACHE", str(tmp_path / "kept"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "kept" / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLASHWAM_CACHE", str(tmp_path / "file"))
    keep_compiled()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


@pytest.mark.parametrize("compiling", [False, True])
def test_a_training_that_compiles_keeps_it(tmp_path, monkeypatch, compiling):
    monkeypatch.setenv("FLASHWAM_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "none")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    words = [
        "distill",
        "flash_wam",
        f"distill.compile={compiling}",
        "data.root=nowhere",
        f"--run-dir={tmp_path / 'run'}",
    ]
    assert main(words) == 2
    # Torch names its own folder there once it is asked for one.
    assert (os.environ.get("TORCHINDUCTOR_CACHE_DIR") == str(tmp_path / "compiled")) == compiling
