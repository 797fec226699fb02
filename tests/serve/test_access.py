# SPDX-License-Identifier: Apache-2.0
"""A token is read and checked alike by the server that asks for it and by the client that sends it."""

import pytest

from flashwam.cli import main
from flashwam.serve.access import VARIABLE, given_token
from flashwam.serve.client import PolicyClient
from flashwam.serve.options import ServerOptions

NONE = ["", "two words", "two\nlines", "a\ttab", "s3cr\u00e9t", "\x00"]
FILES = [b"\xff\xfe\x00", b"\xff\xfe", "s3cret".encode("utf-16"), b"\xef\xbb\xbfs3cret", b"", b" \n", b"two words"]
TOLD = "must be ASCII letters, digits and signs on one line"


@pytest.mark.parametrize("token", NONE)
def test_what_is_no_token_is_refused_on_both_sides(token):
    with pytest.raises(ValueError, match=TOLD) as of_server:
        ServerOptions(token=token)
    with pytest.raises(ValueError, match=TOLD) as of_client:
        PolicyClient("ws://127.0.0.1:1", token)
    assert str(of_server.value) == str(of_client.value)
    assert "s3cr" not in str(of_server.value)


@pytest.mark.parametrize("content", FILES)
def test_a_file_that_holds_no_token_is_named_on_both_sides(content, tmp_path, capsys):
    file = tmp_path / "token"
    file.write_bytes(content)
    nowhere = str(tmp_path / "nowhere")
    for words in (["serve", nowhere], ["evaluate", "--server", "ws://127.0.0.1:1"]):
        assert main([*words, "--token-file", str(file)]) == 2
        assert capsys.readouterr().err.startswith(f"error: the token in {file} {TOLD}")


def test_spaces_about_a_token_are_not_of_it(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_bytes(b" s3cret\r\n")
    monkeypatch.setenv(VARIABLE, "0ther\n")
    assert (given_token(file), given_token(None)) == ("s3cret", "0ther")


def test_an_environment_without_a_token_opens_to_all_and_one_with_another_text_to_none(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert given_token(None) is None
    monkeypatch.setenv(VARIABLE, "")
    assert given_token(None) is None
    monkeypatch.setenv(VARIABLE, " ")
    with pytest.raises(ValueError, match=f"the token in {VARIABLE} {TOLD}"):
        given_token(None)
