# SPDX-License-Identifier: Apache-2.0
"""Linear layers of the same input as one product: their weights lie in memory one after the other."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["joined"]


def joined(layers: Sequence[nn.Module]) -> nn.Module | None:
    """A layer that gives what several give of one input, one after the other in its last dimension.

    It holds no numbers of its own. Theirs are moved, once, to where they lie in one piece, and stay theirs: what is
    loaded into the layers or trained is there for the joined one too, until something moves the layers themselves.

    Args:
        layers: Of one class, each computing row by row: their tensors have a row for each output, or are one number
            that all share.

    Returns:
        The layer; None where they cannot be joined, as they are of several classes, multiply in several ways, or share
        their memory with others (as in an optimiser that keeps all parameters in one piece).
    """
    first = layers[0]
    if any(type(layer) is not type(first) or _settings(layer) != _settings(first) for layer in layers):
        return None
    names = [name for name, _ in _tensors(first)]
    parts = {name: [getattr(layer, name) for layer in layers] for name in names}
    rows = {name: each for name, each in parts.items() if each[0].dim()}
    if any(not (_is_one(each) or all(map(_is_alone, each))) for each in rows.values()):
        return None
    found = {name: _one(each) if name in rows else each[0] for name, each in parts.items()}
    layer = copy.copy(first)
    layer._parameters = {name: _frozen(found.get(name)) for name in first._parameters}
    layer._buffers = {name: found.get(name) for name in first._buffers}
    if isinstance(layer, nn.Linear):
        layer.out_features = sum(each.out_features for each in layers)
    return layer


def _tensors(layer: nn.Module) -> list[tuple[str, Tensor]]:
    return [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]


def _settings(layer: nn.Module) -> dict[str, object]:
    """All that a layer computes with beside its tensors, whose names, dtypes and devices count too."""
    own = {name: value for name, value in vars(layer).items() if not name.startswith("_") and name != "out_features"}
    return own | {name: (x.dtype, x.device, x.shape[1:]) for name, x in _tensors(layer)}


def _is_alone(x: Tensor) -> bool:
    """Tells whether a tensor has its memory to itself, and is of a kind that can be moved elsewhere."""
    plain = type(x) in (Tensor, nn.Parameter) and x.is_contiguous()
    # What was made in inference mode cannot be moved.
    return plain and not x.is_inference() and x.untyped_storage().nbytes() == x.numel() * x.element_size()


def _is_one(parts: Sequence[Tensor]) -> bool:
    """Tells whether tensors lie in one piece, in their order."""
    first = parts[0]
    if not all(type(x) in (Tensor, nn.Parameter) and x.is_contiguous() for x in parts):
        return False
    place = first.storage_offset()
    for x in parts:
        if x.untyped_storage().data_ptr() != first.untyped_storage().data_ptr() or x.storage_offset() != place:
            return False
        place += x.numel()
    return True


@torch.no_grad()
def _one(parts: Sequence[Tensor]) -> Tensor:
    """The tensors as one, with which they share their memory from now on."""
    first = parts[0].detach()
    count = sum(len(x) for x in parts)
    if _is_one(parts):
        return first.as_strided((count, *first.shape[1:]), first.stride(), first.storage_offset())
    with torch.inference_mode(False):
        whole = torch.cat([x.detach() for x in parts])
    for x, own in zip(parts, whole.split([len(x) for x in parts]), strict=True):
        x.data = own
    return whole


def _frozen(x: Tensor | None) -> nn.Parameter | None:
    return None if x is None else nn.Parameter(x, requires_grad=False)
