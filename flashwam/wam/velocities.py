# SPDX-License-Identifier: Apache-2.0
"""Velocities are held against the states that they belong to: what is broadcast trains and draws without a word."""

from collections.abc import Mapping

import torch
from torch import Tensor

from flashwam.system.errors import InputError

__all__ = ["check_velocities"]


def check_velocities(found: object, noisy: Mapping[str, Tensor], of: object) -> None:
    """Refuses what are no velocities of the given states.

    Args:
        found: What was put out: stream name -> velocity. Streams that nobody asked for are left alone.
        noisy: Stream name -> state, [B, C, F, H, W].
        of: What put it out, for the message.

    Raises:
        ValueError: It is no mapping, or a stream is missing, no tensor, of another shape than its state, or not of
            floating-point numbers; those of double precision are for states in it.
    """
    told = f"velocity of {type(of).__name__}"
    if not isinstance(found, Mapping):
        raise InputError(f"{told}: expected a mapping from each of {list(noisy)} to its velocity; got {_kind(found)}")
    for name, x in noisy.items():
        if name not in found:
            raise InputError(f"{told}: stream {name!r} is missing; got {list(found)} for {list(noisy)}")
        v = found[name]
        if not isinstance(v, Tensor):
            raise InputError(f"{told}: stream {name!r} must be a tensor; got {_kind(v)}")
        if v.shape != x.shape:
            raise InputError(f"{told}: stream {name!r} must be {tuple(x.shape)} as its state is; got {tuple(v.shape)}")
        if not v.is_floating_point() or (v.dtype == torch.float64 != x.dtype):
            raise InputError(f"{told}: stream {name!r} must be of floating-point numbers, as its state; got {v.dtype}")


def _kind(found: object) -> str:
    return "None" if found is None else f"a {type(found).__name__}"
