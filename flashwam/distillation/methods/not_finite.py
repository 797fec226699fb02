# SPDX-License-Identifier: Apache-2.0
"""The errors of a training whose numbers are not finite, made once that is known."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flashwam.system.errors import DivergedError

__all__ = ["NonFiniteError", "gradient_error", "gradient_norms", "loss_error", "total_error"]


class NonFiniteError(DivergedError):
    """A loss or gradient is infinite or not a number; the message names stream, sigma and sample.

    Attributes:
        sample: Draw number of the sample, where it is known.
    """

    def __init__(self, message: str, *, sample: int | None = None) -> None:
        super().__init__(message)
        self.sample = sample


def loss_error(
    name: str, index: Tensor, finite: Tensor, loss: Tensor, frame_loss: Tensor, sigma: Tensor
) -> NonFiniteError:
    """Names the first sample of a stream [B] whose loss is not finite."""
    row = int((~finite).nonzero()[0])
    levels = ", ".join(f"{level:.4f}" for level in sigma[row].tolist())
    values = ", ".join(f"{value:.4g}" for value in frame_loss[row].tolist())
    sample = int(index[row % len(index)])
    return NonFiniteError(
        f"stream {name!r}: loss {float(loss[row]):g} of sample {sample} is not "
        f"finite; sigma per frame [{levels}], loss per frame [{values}]. Look at the sample or lower lr; "
        "nothing was saved after the last checkpoint",
        sample=sample,
    )


def total_error(loss: Tensor, index: Tensor) -> NonFiniteError:
    """Names the samples [B] of a batch whose total loss [] alone is not finite."""
    return NonFiniteError(
        f"the total loss is {float(loss)} though every stream's is finite: look at the weights and regularisers; "
        f"samples {index.tolist()}; nothing was saved"
    )


@torch.no_grad()
def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Norms [] of the gradients that parameters have here, or of this process' shares of them, left on their device."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    shares = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients.values()]
    return dict(zip(gradients, torch._foreach_norm(shares) if shares else (), strict=True))


def gradient_error(norms: Mapping[str, Tensor], step: int, index: Tensor) -> NonFiniteError:
    """Names the parameters whose own gradient is not finite.

    Args:
        norms: Of `gradient_norms`, before gradients were clipped: one bad one makes bad ones of all.
        step: That they are of.
        index: Draw numbers of the last batch.
    """
    bad = [name for name, norm in norms.items() if not math.isfinite(float(norm))]
    where = f"in {len(bad)} of {len(norms)} parameters, first {bad[:3]}" if bad else "in none of this process' shares"
    return NonFiniteError(
        f"step {step}: the gradient is not finite, {where}, though every loss was; last samples {index.tolist()}; "
        "nothing was saved"
    )
