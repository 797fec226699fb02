# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
import torch

from flashwam.data.hashed_text import encode_text, say_cut


def test_rows_are_words_and_an_end_mark():
    text = encode_text("Open the drawer!")
    assert text.shape == (8, 32)
    assert (text.abs().sum(dim=1) > 0).tolist() == [True] * 4 + [False] * 4
    assert torch.equal(text[3], encode_text("")[0])
    assert not encode_text("")[1:].any()


def test_same_words_same_rows_and_different_words_differ():
    a, b = encode_text("open the drawer"), encode_text("open the window")
    assert torch.equal(a[:2], b[:2])
    assert (a[2] != b[2]).sum() >= 5
    assert torch.equal(a, encode_text("OPEN  the drawer"))


def test_embedding_never_changes():
    assert encode_text("drawer")[0, :8].tolist() == [1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0]


def test_long_prompts_keep_the_end_mark():
    assert torch.equal(encode_text("a b c d e f g h i j")[7], encode_text("")[0])


def test_long_prompts_that_end_differently_are_apart():
    common = "pick the black bowl next to the"
    one, other = encode_text(f"{common} plate and place it"), encode_text(f"{common} ramekin and place it")
    assert torch.equal(one[:6], other[:6])
    assert (one[6] != other[6]).sum() >= 5
    assert torch.equal(one, encode_text(f"{common}, PLATE and place it."))
    assert torch.equal(encode_text(common)[6], encode_text("the")[0])


def test_what_is_cut_off_is_said_once_a_prompt_with_both_counts(caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        say_cut("seven", has=7, used=7)
        say_cut("once one", has=9, used=7)
        say_cut("twice one " * 1000, has=9000, used=7)
    said = [record.getMessage() for record in caplog.records]
    assert [text.partition(":")[0] for text in said] == [
        "a prompt has 9 tokens and the text encoder takes 7",
        "a prompt has 9000 tokens and the text encoder takes 7",
    ]
    assert max(map(len, said)) < 300


@pytest.mark.parametrize(("has", "used"), [(3, 4), (4, 4)])
def test_a_prompt_that_fits_is_not_spoken_of(caplog, has, used):
    say_cut(f"fits {has}", has=has, used=used)
    assert not caplog.records
