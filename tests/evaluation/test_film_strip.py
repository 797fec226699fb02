# SPDX-License-Identifier: Apache-2.0
import numpy as np
from PIL import Image

from flashwam.evaluation.pictures import save_film


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
