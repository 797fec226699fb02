# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from flashwam.data.layouts import arrange, camera_sizes, separate


def test_tshape_puts_wrists_above_the_head():
    head, left, right = torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 2), 2.0)
    assert arrange("tshape", [head, left, right])[0, 0].tolist() == [[1, 1, 2, 2], [0] * 4, [0] * 4]
    assert camera_sizes("tshape", (256, 320), count=3) == [(256, 320), (128, 160), (128, 160)]


def test_width_keeps_the_order():
    views = [torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 2)]
    assert arrange("width", views)[0, 0].tolist() == [[0, 1, 1]]
    assert camera_sizes("width", (128, 128), count=2) == [(128, 128), (128, 128)]


@pytest.mark.parametrize(
    ("layout", "shapes", "told"),
    [
        ("tshape", [(1, 1, 2, 4)] * 3, "half as high"),
        ("tshape", [(1, 1, 2, 4)] * 2, "3 cameras"),
        ("width", [(1, 2, 2, 4), (1, 3, 2, 4)], "equal channels, frames"),
        ("width", [], "at least 1"),
        ("grid", [(1, 1, 1, 1)], "width, tshape"),
    ],
)
def test_views_that_do_not_fit_are_refused(layout, shapes, told):
    with pytest.raises(ValueError, match=told):
        arrange(layout, [torch.zeros(shape) for shape in shapes])


@pytest.mark.parametrize(("layout", "sizes"), [("width", [(2, 3)] * 3), ("tshape", [(4, 6), (2, 3), (2, 3)])])
def test_cameras_are_taken_apart_as_they_were_put_together(layout, sizes):
    views = [torch.randn(2, 1, *size) for size in sizes]
    again = separate(layout, arrange(layout, views), cameras=3)
    assert all(torch.equal(a, b) for a, b in zip(again, views, strict=True))
    with pytest.raises(ValueError, match="4 x 7 pixels cannot be cut into 3 cameras"):
        separate(layout, torch.zeros(3, 4, 7), cameras=3)
