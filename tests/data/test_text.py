# SPDX-License-Identifier: Apache-2.0
import torch

from flashwam.data.text import encode_text


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
