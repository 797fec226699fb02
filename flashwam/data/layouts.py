# SPDX-License-Identifier: Apache-2.0
"""Several cameras as one picture: where each camera's latents go, and how large its pictures are encoded.

Letters: C latent channels, F latent frames, h and w latent rows and columns.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from flashwam.system.errors import InputError

__all__ = ["ARRANGEMENTS", "Arrangement", "arrange", "camera_sizes", "check_cameras", "separate"]

Arrangement = Literal["width", "tshape"]
ARRANGEMENTS: tuple[Arrangement, ...] = ("width", "tshape")


def check_cameras(layout: str, count: int) -> None:
    """Refuses an unknown layout, and a number of cameras it cannot take.

    Raises:
        ValueError: with what was expected.
    """
    if layout not in ARRANGEMENTS:
        raise InputError(f"layout: expected one of {', '.join(ARRANGEMENTS)}, got {layout!r}")
    if count < 1 or (layout == "tshape" and count != 3):
        wanted = "3 cameras (head, left wrist, right wrist)" if layout == "tshape" else "at least 1 camera"
        raise InputError(f"layout {layout!r} takes {wanted}, got {count}")


def arrange(layout: str, views: Sequence[Tensor]) -> Tensor:
    """Puts the cameras' latents together.

    Args:
        layout: "width": side by side, in order. "tshape": the wrists side by side above the head camera, whose
            latents are twice as high and as wide as theirs; order head, left wrist, right wrist.
        views: Per camera [C, F, h, w].

    Returns:
        [C, F, H, W].

    Raises:
        ValueError: The views do not fit together.
    """
    check_cameras(layout, len(views))
    shapes = [tuple(view.shape) for view in views]
    if layout == "width":
        if len({shape[:3] for shape in shapes}) > 1:
            raise InputError(f"cameras side by side need equal channels, frames and heights, got {shapes}")
        return torch.cat(list(views), dim=-1)
    head, left, right = views
    channels, frames, height, width = head.shape
    if any(2 * s[2] != height or 2 * s[3] != width or s[:2] != (channels, frames) for s in shapes[1:]):
        raise InputError(f"wrist cameras must be half as high and wide as the head camera's, got {shapes}")
    return torch.cat([torch.cat([left, right], dim=-1), head], dim=-2)


def separate(layout: str, picture: Tensor, *, cameras: int) -> list[Tensor]:
    """Takes the picture of all cameras apart again, in the order that `arrange` is given them.

    Args:
        layout: See `arrange`.
        picture: [..., H, W], latents or pixels.
        cameras: How many made it up.

    Returns:
        Per camera [..., h, w].

    Raises:
        ValueError: It cannot be of so many cameras.
    """
    check_cameras(layout, cameras)
    rows, columns = picture.shape[-2:]
    if layout == "width" and columns % cameras == 0:
        return list(picture.chunk(cameras, -1))
    if layout == "tshape" and rows % 3 == 0 and columns % 2 == 0:
        wrists, head = picture.split([rows // 3, rows - rows // 3], -2)
        return [head, *wrists.chunk(2, -1)]
    raise InputError(
        f"pictures of {rows} x {columns} pixels cannot be cut into {cameras} cameras of the layout {layout!r}"
    )


def camera_sizes(layout: str, size: tuple[int, int], *, count: int) -> list[tuple[int, int]]:
    """Height and width in pixels at which each camera is encoded.

    Args:
        layout: See `arrange`.
        size: Of the first camera.
        count: Cameras.
    """
    check_cameras(layout, count)
    half = (size[0] // 2, size[1] // 2)
    return [size if layout == "width" or number == 0 else half for number in range(count)]
