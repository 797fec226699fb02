# SPDX-License-Identifier: Apache-2.0
"""The devices on which a model runs, by name."""

import torch

from flashwam.system.errors import InputError

__all__ = ["device_named"]


def device_named(name: str | torch.device) -> torch.device:
    """Finds a device of this machine, such as "cuda:1" or "cpu".

    Raises:
        ValueError: Torch finds none of that name here.
    """
    there = _devices()
    # The first of a kind goes by the kind's name too.
    if str(name).removesuffix(":0") not in there:
        raise InputError(
            f"device must be one that torch finds here, {' or '.join(there)}; got {str(name)!r}: flashwam info tells "
            "of the device and of torch's version"
        )
    return torch.device(name)


def _devices() -> list[str]:
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = torch.accelerator.current_accelerator()
    if kind is None:
        return ["cpu"]
    others = range(1, torch.accelerator.device_count())
    return ["cpu", kind.type, *(f"{kind.type}:{index}" for index in others)]
