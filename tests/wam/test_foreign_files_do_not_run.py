# SPDX-License-Identifier: Apache-2.0
"""No file of another tool's checkpoint runs, whatever is put in its place."""

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from pickles import run_by
from released import lerobot_weights, write_lerobot, write_parts, write_released

from flashwam.commands.describe import describe
from flashwam.serve.model import load_served
from flashwam.serve.session import PolicySession


def policy(folder: Path) -> Path:
    write_lerobot(folder, lerobot_weights(), used_action_channel_ids=[0, 1, 2])
    return write_parts(folder)


def serve(folder: Path, preset: str | None) -> None:
    """Reads everything: the network, the autoencoder, and with the prompt the text encoder and its tokenizer."""
    PolicySession(load_served(folder, nfe="1v/1a", preset=preset)).reset("put the cup on the stove")


@pytest.mark.parametrize(("make", "preset"), [(write_released, "libero"), (policy, None)])
def test_no_file_of_a_foreign_checkpoint_is_unpickled(make, preset, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FLASHWAM_CACHE", str(tmp_path / "cache"))
    folder = make(tmp_path / "model")
    serve(folder, preset)
    (tmp_path / "scratch").mkdir()
    # Embeddings that are kept would spare it the encoder.
    monkeypatch.setenv("FLASHWAM_CACHE", str(tmp_path / "another"))

    def read_all(copy: Path) -> None:
        for read in (describe, partial(serve, preset=preset)):
            with suppress(Exception):
                read(copy)

    assert run_by(folder, read_all, scratch=tmp_path / "scratch") == []
