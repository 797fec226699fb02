# SPDX-License-Identifier: Apache-2.0
"""The inputs that a run notes, and those of runs that noted less."""

import json

import pytest

from flashwam.run.folder import RunFolder
from flashwam.run.inputs import began, check_inputs

LATER = {"adapter": "weights"}


def noted(folder):
    return json.loads(RunFolder(folder).inputs.read_text())["inputs"]


def test_an_input_that_is_new_gone_or_changed_is_refused(tmp_path):
    check_inputs(tmp_path, {"data": "1"})
    for inputs in ({"data": "2"}, {}, {"data": "1", "teacher": "1"}):
        with pytest.raises(ValueError, match="changed since"):
            check_inputs(tmp_path, inputs)
    assert check_inputs(tmp_path, {"data": "1"}) == []


def test_of_a_run_that_never_noted_an_input_it_is_noted_now_and_held_to_from_then_on(tmp_path):
    check_inputs(tmp_path, {"data": "1", "weights": "backbone"})
    now = {"data": "1", "adapter": "a"}
    assert check_inputs(tmp_path, now, noted_later=LATER) == []
    assert noted(tmp_path) == now
    with pytest.raises(ValueError, match="changed since: adapter"):
        check_inputs(tmp_path, now | {"adapter": "b"}, noted_later=LATER)


def test_what_was_never_noted_hides_no_other_change(tmp_path):
    check_inputs(tmp_path, {"data": "1"})
    with pytest.raises(ValueError, match=r"changed since: data\."):
        check_inputs(tmp_path, {"data": "2", "adapter": "a"}, noted_later=LATER)
    assert noted(tmp_path) == {"data": "1"}


def test_how_a_run_began_is_told_alike_whatever_was_accepted_since(tmp_path):
    run = RunFolder(tmp_path)
    assert began(run) is None
    # As a run writes it, with a machine's name beyond ASCII.
    run.provenance.write_text(
        json.dumps({"time": "now", "platform": "Möbius", "packages": {"torch": None}}, indent=2) + "\n"
    )
    written = run.provenance.read_bytes()
    check_inputs(tmp_path, {"data": "1"})
    assert began(run) == written
    for data in ("2", "3"):
        check_inputs(tmp_path, {"data": data}, accept=True)
        assert run.provenance.read_bytes() != written
        assert began(run) == written
    for other in (b"{", b"[1]\n", b'{"time":"now"}'):
        run.provenance.write_bytes(other)
        assert began(run) == other
