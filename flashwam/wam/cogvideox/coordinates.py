# SPDX-License-Identifier: Apache-2.0
"""Between the flow path outside and the variance-preserving path of the network, one level per sample.

Outside x = (1 - sigma) x0 + sigma eps; the network sees alpha x0 + s eps with alpha^2 + s^2 = 1, and for a timestep the
index of that noise in the table of its pre-training.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from flashwam.core.noise import vp_from_flow_sigma, vp_state_from_flow
from flashwam.core.vp import VPSchedule

__all__ = ["network_state", "network_timestep", "shared_levels", "velocity_from_data"]


def shared_levels(
    sigma: Mapping[str, Tensor], streams: tuple[str, ...], *, waits: bool = True
) -> tuple[dict[str, Tensor], bool]:
    """([B, F] -> [B] per stream, float32 or better; whether all streams are known to have the same).

    Args:
        sigma: Stream name -> levels.
        streams: Those to look at.
        waits: Whether levels on a device other than the CPU may be looked at, for which it is waited.

    Raises:
        ValueError: A level differs over the frames of a sample.
    """
    level = {name: sigma[name][:, 0].to(torch.promote_types(sigma[name].dtype, torch.float32)) for name in streams}
    first = sigma[streams[0]][:, 0]
    if first.is_meta:
        # Shapes alone, of a plan.
        return level, True
    if not waits and first.device.type != "cpu":
        return level, False
    differs = [(sigma[name] != sigma[name][:, :1]).any() for name in streams]
    differs += [(sigma[name][:, 0] != first).any() for name in streams]
    # One wait for the device.
    differs = torch.stack(differs).tolist()
    uneven = [name for name, wrong in zip(streams, differs[: len(streams)], strict=True) if wrong]
    if uneven:
        raise ValueError(
            f"sigma of {uneven} differs over the frames of a sample; this family has one level per stream and sample "
            "(frame_levels is False)"
        )
    return level, not any(differs)


def network_state(x: Tensor, level: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(x = alpha x0 + s eps, (alpha, s)) of a flow state [B, ...] at levels [B], in float32 or better."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    alpha, s = (value.reshape(-1, *(1,) * (x.ndim - 1)) for value in vp_from_flow_sigma(level.to(x.dtype)))
    return vp_state_from_flow(x, alpha, s), (alpha, s)


def network_timestep(schedule: VPSchedule, level: Tensor) -> Tensor:
    """The table index at flow levels; clean data, which lies below index 0, is fed as 0, the least noise it knows."""
    return schedule.index(level).clamp(min=0)


def velocity_from_data(x: Tensor, x0: Tensor, level: Tensor) -> Tensor:
    """(x - x0) / sigma of [B, ...] at levels [B]; 0 where sigma is 0."""
    level = level.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
    return torch.where(level > 0, (x - x0) / torch.where(level > 0, level, 1), 0)
