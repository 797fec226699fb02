# SPDX-License-Identifier: Apache-2.0
"""The film of teacher and student: its clock, and its file."""

import film
import numpy as np
import pytest
from PIL import Image, ImageSequence

from flashwam.demo.film import Take, frames_of, write_gif


def picture(shade):
    return np.full((24, 24, 3), shade, dtype=np.uint8)


@pytest.fixture
def take():
    """Draws for 76 ms, moves for two control steps, and is there."""
    return Take(
        times=(0.0, 76.0, 88.5, 101.0),
        pictures=tuple(map(picture, (0, 0, 100, 200))),
        drawing=(True, False, False, False),
        success=True,
    )


def test_a_robot_stands_still_while_its_model_draws(take):
    assert take.end == 101.0
    assert [(int(take.at(time)[0][0, 0, 0]), take.at(time)[1]) for time in (0, 75, 76, 88.5, 500)] == [
        (0, True),
        (0, True),
        (0, False),
        (100, False),
        (200, False),
    ]


def test_a_film_plays_what_it_was_given(take, tmp_path):
    quicker = Take(times=(0.0, 10.0), pictures=take.pictures[-2:], drawing=(True, False), success=False)
    frames = frames_of([[take, quicker]], labels=["teacher", "student"], draw_ms=[76.0, 10.0], step=25.0, rest=50.0)
    assert len(frames) == 7
    write_gif(frames, tmp_path / "film.gif", milliseconds=100, colours=32)
    with Image.open(tmp_path / "film.gif") as read:
        shown = [np.array(frame.convert("RGB"), dtype=int) for frame in ImageSequence.Iterator(read)]
    assert len(shown) == 7
    for seen, given in zip(shown, frames, strict=True):
        assert np.abs(seen - np.array(given, dtype=int)).mean() < 3


def test_the_models_filmed_are_rows_of_the_benchmark():
    labels = {row["label"] for row in film.read_mapping(film.MEASURED)["rows"]}
    assert {actor.row for actor in film.ACTORS} <= labels
    assert set(film.TASKS) <= set(film.load_recipe(f"metaworld/{film.STUDENT}").data.tasks)
