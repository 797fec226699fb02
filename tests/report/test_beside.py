# SPDX-License-Identifier: Apache-2.0
"""A comparison shows what lies beside it of its own rows alone; an earlier one may have left films and tables there."""

import json

import pytest
from PIL import Image
from synthetic import evaluation, write

from flashwam.report.compare import compare, gather
from flashwam.report.film import FILM, STILL
from flashwam.run.model_note import fits_note, model_note

LABELS = ["flash 1v/1a", "pairs 1v/1a", "teacher 1v/1a", "teacher full"]
CAPTION = "In real time, left teacher 10v/10a, right flash 1v/1a: the first scene."


@pytest.fixture
def runs(tmp_path):
    teacher = [evaluation("teacher", nfe=nfe, step=5, latency={"chunk_ms": 99.0}) for nfe in ((10, 10), (1, 1))]
    students = [evaluation(name, step=4, latency={"chunk_ms": 50.0}) for name in ("flash", "pairs")]
    found = {"teacher": write(tmp_path / "runs" / "teacher", *teacher)}
    return found | {one["run"]: write(tmp_path / "runs" / one["run"], one) for one in students}


@pytest.fixture
def out(tmp_path):
    (tmp_path / "runs" / "comparison").mkdir(parents=True)
    return tmp_path / "runs" / "comparison"


def film(out, **models):
    Image.new("RGB", (8, 8)).save(out / FILM)
    Image.new("RGB", (8, 8)).save(out / STILL)
    told = {"caption": CAPTION, "alt": "two arms", **({"models": models} if models else {})}
    (out / "film.json").write_text(json.dumps(told))


def cross(out, **models):
    square = [[10 * i + j for j in range(len(LABELS))] for i in range(len(LABELS))]
    table = {"rows": LABELS, "columns": LABELS, "commitment": square, "action_error": square, "draws": 2}
    (out / "cross.json").write_text(json.dumps({**table, **({"models": models} if models else {})}))


def timed(out, label, note=None):
    notes = {} if note is None else {"models": {label: note}}
    (out / "latency.json").write_text(json.dumps({label: {"chunk_ms": 7.0}, **notes}))


def shows_film(runs, out):
    return CAPTION in (compare(runs, out=out)["page"] and (out / "compare.html").read_text())


def test_a_film_is_shown_where_both_in_it_are_compared(runs, out):
    here = {name: model_note(runs[name], step, beside=out) for name, step in (("teacher", 5), ("flash", 4))}
    film(out, **here)
    assert shows_film(runs.values(), out)
    assert shows_film([runs["teacher"], runs["flash"]], out)
    assert not shows_film([runs["teacher"], runs["pairs"]], out)
    film(out, **here | {"flash": here["flash"] | {"step": 3}})
    assert not shows_film(runs.values(), out)


def test_an_older_film_is_known_by_the_labels_of_its_caption(runs, out):
    film(out)
    assert shows_film(runs.values(), out)
    assert not shows_film([runs["teacher"], runs["pairs"]], out)


def test_a_cross_table_is_cut_to_the_models_that_are_compared(runs, out):
    some = [runs["teacher"], runs["pairs"]]
    for models in ({}, {label: model_note(runs[label.split()[0]], None, beside=out) for label in LABELS}):
        cross(out, **models)
        whole, cut = gather(list(runs.values()), out)[2], gather(some, out)[2]
        assert (whole["rows"], "models" in whole) == (LABELS, False)
        assert cut["rows"] == cut["columns"] == LABELS[1:]
        assert cut["commitment"] == cut["action_error"] == [[11, 12, 13], [21, 22, 23], [31, 32, 33]]
        # Errors are against the teacher's draws.
        assert gather([runs["flash"], runs["pairs"]], out)[2] is None
    elsewhere = {label: {"run": "../elsewhere", "step": None} for label in LABELS}
    cross(out, **elsewhere)
    assert gather(list(runs.values()), out)[2] is None


def test_milliseconds_are_those_of_the_weights_that_were_timed(runs, out, tmp_path):
    def milliseconds(*names):
        return {row.run: row.latency.get("chunk_ms") for row in gather([runs[name] for name in names], out)[0]}

    timed(out, "flash 1v/1a", model_note(runs["flash"], 4, beside=out))
    assert milliseconds("flash") == {"flash": 7.0}
    timed(out, "flash 1v/1a", model_note(tmp_path / "earlier" / "flash", 4, beside=out))
    assert milliseconds("flash") == {"flash": 50.0}
    timed(out, "flash 1v/1a", model_note(runs["flash"], 3, beside=out))
    assert milliseconds("flash") == {"flash": 50.0}
    timed(out, "flash 1v/1a")
    assert milliseconds("flash") == {"flash": 7.0}
    runs["other"] = write(tmp_path / "others" / "flash", evaluation("flash", step=4, latency={"chunk_ms": 60.0}))
    # Which of the two was timed is not told; they are of one network, so both have the median of their own times.
    assert milliseconds("flash", "other") == {"runs/flash": 55.0, "others/flash": 55.0}


def test_a_note_moves_with_the_folders_and_a_step_may_be_untold(tmp_path):
    note = model_note(tmp_path / "runs" / "flash", 4, beside=tmp_path / "runs" / "comparison")
    assert note == {"run": "../flash", "step": 4}
    moved = tmp_path / "moved"
    for step, fits in ((4, True), (None, True), (3, False)):
        assert fits_note(note, [moved / "flash"], step, beside=moved / "comparison") == fits
    assert not fits_note(note, [moved / "pairs"], 4, beside=moved / "comparison")
    assert not fits_note({}, [moved / "flash"], 4, beside=moved / "comparison")
