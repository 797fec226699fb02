# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding over (frame, height, width), for video and action tokens.

Shapes: F latent frames, N actions per frame, L tokens, d head dimension.

Angles are built in float64 from plain numbers, never from buffers, so no ``.to()`` can round them. A table is made on
its device, and by it, once for every page of frames, and what a pass asks for is a slice of it: nothing is copied from
the host in a rollout.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from flashwam.system.errors import InputError

__all__ = [
    "action_grid",
    "action_rotary",
    "apply_rotary",
    "axis_dims",
    "rotated",
    "rotary_table",
    "video_grid",
    "video_rotary",
]

_BASE = 10000.0
_PAGE = 64
"""Latent frames of one table."""


def video_grid(frames: int, height: int, width: int, *, start: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Positions of video tokens in (frame, row, column) order.

    Args:
        frames: Latent frames F.
        height: Token rows per frame.
        width: Token columns per frame.
        start: Absolute index of the first latent frame.
        device: Where they are made.

    Returns:
        Float64 positions, [3, F * height * width].
    """
    axes = [torch.arange(*span, device=device) for span in ((start, start + frames), (height,), (width,))]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).double()


def action_grid(frames: int, actions: int, *, start: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Positions of action tokens: fractions of a frame in time, and -1 in both spatial axes.

    Action k = 1..N of frame f sits at f + k / (N + 1).

    Args:
        frames: Latent frames F.
        actions: Actions per latent frame N.
        start: Absolute index of the first latent frame.
        device: Where they are made.

    Returns:
        Float64 positions, [3, F * N], rounded to float32 as pre-training rounded them.
    """
    options = {"dtype": torch.float32, "device": device}
    frame = torch.arange(start, start + frames, **options)
    within = torch.arange(1, actions + 1, **options) / (actions + 1)
    time = (frame[:, None] + within).flatten().double()
    return torch.stack([time, torch.full_like(time, -1.0), torch.full_like(time, -1.0)])


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Dimensions of a head that turn with frames, rows and columns."""
    spatial = head_dim // 3
    if head_dim % 2 or spatial % 2:
        raise InputError(
            f"attention_head_dim must be even with an even third (20, 32, 128, ...), got {head_dim}: choose another"
        )
    return head_dim - 2 * spatial, spatial, spatial


def rotary_table(head_dim: int, grid: Tensor) -> Tensor:
    """Unit rotations of every token: frame, row and column pairs side by side.

    Args:
        head_dim: d; d // 3 must be even. Rows and columns take d // 3 dimensions each, frames the rest.
        grid: Positions, [3, L].

    Returns:
        Cosines and sines, float32 [L, d / 2, 2]: real numbers, since compilers have no complex ones.
    """
    angles = []
    for positions, dim in zip(grid, axis_dims(head_dim), strict=True):
        base = _BASE ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=grid.device) / dim)
        angles.append(positions.double()[:, None] * base)
    angle = torch.cat(angles, dim=1).float()
    return torch.view_as_real(torch.polar(torch.ones_like(angle), angle))


def video_rotary(
    head_dim: int, frames: int, height: int, width: int, start: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """`rotary_table` of `video_grid`, [F * height * width, d / 2, 2], out of tables that are kept."""
    page = partial(_video_page, head_dim, height, width, torch.device(device))
    return _out_of_pages(page, frames, start, per_frame=height * width)


def action_rotary(
    head_dim: int, frames: int, actions: int, start: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """`rotary_table` of `action_grid`, [F * N, d / 2, 2], out of tables that are kept."""
    page = partial(_action_page, head_dim, actions, torch.device(device))
    return _out_of_pages(page, frames, start, per_frame=actions)


def apply_rotary(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotates adjacent pairs of the last dimension.

    Args:
        x: Queries or keys, [B, L, heads, d].
        rotary: Cosines and sines, [L, d / 2, 2].

    Returns:
        Rotated tensor of the shape and dtype of `x`.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        return rotated(pairs, rotary).flatten(-2).type_as(x)
    # The same products in one pass over memory, which a compiler could not make code for.
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(rotary)[:, None]
    return torch.view_as_real(turned).flatten(-2).type_as(x)


def rotated(pairs: Tensor, rotary: Tensor) -> Tensor:
    """Rotates pairs [B, L, heads, d / 2, 2] with real numbers alone."""
    (a, b), (cos, sin) = pairs.unbind(-1), rotary[:, None].unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1)


def _out_of_pages(page: Callable[[int], Tensor], frames: int, start: int, *, per_frame: int) -> Tensor:
    """Rows of `frames` frames from `start` on; a view, but where they lie in several pages."""
    parts, at = [], start
    while at < start + frames:
        number, offset = divmod(at, _PAGE)
        count = min(_PAGE - offset, start + frames - at)
        parts.append(page(number)[offset * per_frame : (offset + count) * per_frame])
        at += count
    return parts[0] if len(parts) == 1 else torch.cat(parts)


# The tables outlive the call that made them: built under inference mode they could never serve a training step.
@lru_cache(maxsize=64)
def _video_page(head_dim: int, height: int, width: int, device: torch.device, number: int) -> Tensor:
    with torch.inference_mode(False):
        return rotary_table(head_dim, video_grid(_PAGE, height, width, start=number * _PAGE, device=device))


@lru_cache(maxsize=64)
def _action_page(head_dim: int, actions: int, device: torch.device, number: int) -> Tensor:
    with torch.inference_mode(False):
        return rotary_table(head_dim, action_grid(_PAGE, actions, start=number * _PAGE, device=device))
