# SPDX-License-Identifier: Apache-2.0
"""Linear layers in 8-bit numbers, for rollouts: `rollout.precision: fp8`.

A weight is rounded once, each of its rows on a scale of its own; what goes in is rounded token by token as it comes.
So nothing has to be calibrated, and nothing that was calibrated can go stale.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from flashwam.core.float8 import MULTIPLE, product, round_rows
from flashwam.system.errors import InputError

__all__ = ["Float8Linear", "check_float8", "is_rounded", "round_layers"]

logger = logging.getLogger(__name__)

_CAPABILITY = (8, 9)


class Float8Linear(nn.Module):
    """A linear layer whose weight is float8 and whose input is rounded likewise, row by row.

    It is for rollouts alone: no gradient comes through, and it is not saved.

    Args:
        linear: The layer that it stands for; both sides are multiples of 16.

    Attributes:
        weight: float8 [out, in].
        scale: Of the weight's rows, float32 [out, 1].
        bias: As it was, [out].
    """

    scale: Tensor
    unit: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = round_rows(linear.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        self.register_buffer("unit", torch.ones((), device=scale.device))
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Projects x [..., in] to [..., out] in the dtype of x, rounded as `product` rounds."""
        rows, scale = round_rows(x.flatten(0, -2))
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        made = product(rows, scale, self.weight, self.scale, bias, unit=self.unit)
        return made.unflatten(0, x.shape[:-1]).to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Float8Linear":
        """Moves with its model, but takes no other dtype: the numbers mean nothing without their scales."""
        weight, scale = self.weight.detach(), self.scale
        device = fn(scale).device
        check_float8(device)
        if self.bias is not None:
            self.bias = nn.Parameter(fn(self.bias.detach()), requires_grad=False)
        self.weight = nn.Parameter(weight.to(device), requires_grad=False)
        self.scale, self.unit = scale.to(device), self.unit.to(device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise InputError(f"{prefix.rstrip('.')} is rounded to fp8 for a rollout; save the model as it was loaded")


@cache
def check_float8(device: torch.device) -> None:
    """Checks that a device multiplies float8; a CPU does the same sums in float32.

    Raises:
        ValueError: It does not.
    """
    if device.type in ("cpu", "meta"):
        return
    instead = "leave the precision out, or serve in bfloat16 (--dtype bfloat16)"
    if device.type != "cuda":
        raise InputError(f"precision fp8 needs an Nvidia GPU or a CPU, and the model is to run on {device}: {instead}")
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        needed, own = (".".join(map(str, each)) for each in (_CAPABILITY, capability))
        raise InputError(
            f"precision fp8 needs a GPU of compute capability {needed} or more (Ada, Hopper, Blackwell), and the "
            f"{name} has {own}: {instead}"
        )
    rows, scale = round_rows(torch.ones(MULTIPLE, MULTIPLE, device=device))
    try:
        product(rows, scale, rows, scale, None)
    except RuntimeError as error:
        first = next(iter(str(error).strip().splitlines()), "no more is known")
        raise InputError(
            f"precision fp8 needs products of float8, which torch {torch.__version__} does not compute on the {name} "
            f"({first}): take a newer torch, or {instead}"
        ) from error


def round_layers(model: nn.Module, targets: Sequence[str]) -> int:
    """Puts 8-bit layers in the place of a model's linear layers, and says which stay as they are.

    Args:
        model: It is changed in place, its layers one after the other, so that no second copy of it is held.
        targets: Ends of the layers' names.

    Returns:
        Layers that are 8-bit now.

    Raises:
        ValueError: No layer is meant or fits, one is wrapped (its adapters are not merged), or the device has no fp8.
    """
    found = dict(_named(model, targets))
    if not found:
        raise InputError(f"{type(model).__name__} has no linear layers {list(targets)} to be rounded to fp8")
    wrapped = [name for name, layer in found.items() if not isinstance(layer, (nn.Linear, Float8Linear))]
    if wrapped:
        raise InputError(
            f"{wrapped[0]} is a {type(found[wrapped[0]]).__name__}, not a linear layer: merge adapters into the "
            "weights before they are rounded to fp8"
        )
    left: dict[str, tuple[int, int]] = {}
    for name, layer in found.items():
        if not isinstance(layer, nn.Linear):
            continue
        if layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:
            left[name] = (layer.in_features, layer.out_features)
            continue
        check_float8(layer.weight.device)
        above, _, own = name.rpartition(".")
        setattr(model.get_submodule(above), own, Float8Linear(layer))
    if len(left) == len(found):
        raise InputError(
            f"no linear layer can be rounded to fp8: of each a side is no multiple of {MULTIPLE}, such as "
            f"{_first(left)}; leave the precision out"
        )
    if left:
        logger.warning(
            "precision fp8: %d of %d linear layers stay as they are, since a side is no multiple of %d: %s%s",
            len(left),
            len(found),
            MULTIPLE,
            _first(left),
            "" if len(left) == 1 else " and others",
        )
    return len(found) - len(left)


def is_rounded(model: nn.Module) -> bool:
    """Tells whether a model has 8-bit layers."""
    return any(isinstance(module, Float8Linear) for module in model.modules())


def _first(layers: Mapping[str, tuple[int, int]]) -> str:
    name, (width, out) = next(iter(layers.items()))
    return f"{name} ({width} to {out})"


def _named(model: nn.Module, targets: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    ends = tuple(f".{end}" for end in targets)
    return ((name, module) for name, module in model.named_modules() if f".{name}".endswith(ends))
