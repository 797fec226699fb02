# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_joint_wam
from tiny_windows import Windows

from flashwam.data.pictures import latent_frames
from flashwam.evaluation.pictures import save_film, save_strip


def test_what_no_picture_covers_is_transparent(tmp_path):
    """White beside the pictures of a short episode would glare on a dark page."""
    long, short = (np.full((2, count, 4, 4, 3), 200, np.uint8) for count in (9, 2))
    assert save_film([long, short], tmp_path / "film.png") == "film.png"
    with Image.open(tmp_path / "film.png") as image:
        pixels = np.array(image)
    assert pixels.shape == (2 * (4 * 4 + 4), 2 * 9 * 4, 4)
    assert (pixels[:16] == (200, 200, 200, 255)).all()
    assert not pixels[16:24].any()
    assert (pixels[24:, :16] == (200, 200, 200, 255)).all()
    assert not pixels[24:, 16:].any()


@pytest.mark.parametrize("models", [1, 2])
def test_a_window_s_lines_stand_together_and_show_a_picture_of_each_latent_frame(tmp_path, models):
    """However many drew: without a teacher there are two lines a window."""
    batch = Windows(tiny_joint_wam()).batch([0, 1])

    def pictures(latents):
        assert latents.shape[2] == 4
        return np.full((1, 1 + 3 * 4, 2, 2, 3), 7, np.uint8) * np.arange(13, dtype=np.uint8)[None, :, None, None, None]

    drawn = [{"video": batch.clean["video"]}]
    assert save_strip(pictures, batch, [drawn] * models, tmp_path / "strip.png", draws=1) == "strip.png"
    with Image.open(tmp_path / "strip.png") as image:
        pixels = np.array(image)
    lines = 1 + models
    assert pixels.shape == (2 * (2 * lines * 2 + 4), 2 * 4 * 2, 4)
    assert pixels[0, ::4, 0].tolist() == [0, 4 * 7, 8 * 7, 12 * 7]
    gap = pixels[:, 0, 3] == 0
    assert np.flatnonzero(gap).tolist() == list(range(4 * lines, 4 * lines + 8))


@pytest.mark.parametrize(
    ("pictures", "frames", "expected"),
    [(1, 1, [0]), (3, 3, [0, 1, 2]), (9, 3, [0, 1, 1, 1, 1, 2, 2, 2, 2])],
)
def test_every_picture_is_of_a_latent_frame(pictures, frames, expected):
    assert latent_frames(pictures, frames).tolist() == expected
