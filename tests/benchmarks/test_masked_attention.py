# SPDX-License-Identifier: Apache-2.0
"""Attention of a training pass is timed at both recipes' lengths, and what cannot be timed says why."""

import torch
from masked_attention import attention_rows, attention_table


def test_both_backends_have_a_row_at_both_lengths() -> None:
    rows = attention_rows("tiny", torch.device("cpu"), torch.float32, rounds=1)
    assert [(row["length"], row["backend"]) for row in rows] == [
        (length, backend) for length in ("RoboTwin", "LIBERO") for backend in ("sdpa", "flex")
    ]
    for row in rows:
        if row["backend"] == "sdpa":
            assert row["seconds"] > 0
            assert row["tokens"] == 16 * 6 + 16 * 4 + 14 * 2
        else:
            assert "does not support backward on CPU" in row["why"]
    page = attention_table(rows)
    assert page.count("| sdpa |") == 2
    assert "| tiny | RoboTwin | | flex | not measured: " in page
