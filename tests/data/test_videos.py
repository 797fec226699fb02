# SPDX-License-Identifier: Apache-2.0
"""Pictures from the middle of a video, whatever it is coded as."""

import numpy as np
import pytest

pytest.importorskip("av")

import av

from flashwam.data.clips import read_clip

CELL, BITS = 16, 8


def write_numbered(path, count, *, rate, codec="libx264", **options):
    """A video whose picture n shows the bits of n as cells."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 4 * CELL, 4 * CELL, "yuv420p"
        for number in range(count):
            picture = np.zeros((4 * CELL, 4 * CELL, 3), np.uint8)
            for bit in range(BITS):
                if number >> bit & 1:
                    down, right = CELL * (bit // 4), CELL * (bit % 4)
                    picture[down : down + CELL, right : right + CELL] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def number_of(picture):
    cells = picture[CELL // 2 :: CELL, CELL // 2 :: CELL, 0].reshape(-1)[:BITS] > 128
    return sum(1 << bit for bit, is_set in enumerate(cells) if is_set)


def numbers_read(path, rows, *, fps):
    return [number_of(picture) for picture in read_clip(path, rows, fps=fps)]


QUIET = {"x265-params": "log-level=none"}


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx265", {"g": "2", "crf": "30", **QUIET}),
        ("libx265", {"g": "30", **QUIET}),
        ("libx265", {"x265-params": "log-level=none:open-gop=1:keyint=12:min-keyint=12:scenecut=0"}),
        ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
        ("libx264", {"g": "8", "bf": "3"}),
        ("libsvtav1", {"g": "2", "crf": "30"}),
    ],
    ids=["hevc g=2", "hevc g=30", "hevc open", "h264 open", "h264", "av1"],
)
def test_every_row_of_a_video_can_be_the_first_that_is_read(tmp_path, codec, options):
    path = write_numbered(tmp_path / "a.mp4", 70, rate=30, codec=codec, **options)
    for row in range(65):
        assert numbers_read(path, [row, row + 4], fps=30) == [row, row + 4]


@pytest.mark.parametrize("times", [1, 2, 3, 6])
def test_of_more_pictures_than_rows_the_nearest_are_taken(tmp_path, times):
    path = write_numbered(tmp_path / "a.mp4", 120, rate=10 * times, g="7")
    assert numbers_read(path, [0, 1, 2, 5, 9], fps=10) == [times * row for row in (0, 1, 2, 5, 9)]
    for row in range(1, 20):
        assert numbers_read(path, [row], fps=10) == [times * row]


def test_a_row_that_lies_between_two_pictures_is_shown_by_the_nearer(tmp_path):
    path = write_numbered(tmp_path / "a.mp4", 120, rate=25, g="9", bf="2")
    # At 2.5 pictures a row: row 1 lies midway.
    assert numbers_read(path, [2, 4, 6], fps=10) == [5, 10, 15]
    assert numbers_read(path, [1], fps=10)[0] in (2, 3)


def test_a_row_beyond_the_end_is_told(tmp_path):
    path = write_numbered(tmp_path / "a.mp4", 40, rate=30, codec="libx265", g="2", **QUIET)
    with pytest.raises(ValueError, match=r"has no picture at 1\.333 s \(1 of 2 missing\)"):
        read_clip(path, [39, 40], fps=30)
    with pytest.raises(ValueError, match=r"has no picture at 3\.000 s \(1 of 1 missing\)"):
        read_clip(path, [90], fps=30)
