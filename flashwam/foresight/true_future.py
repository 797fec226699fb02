# SPDX-License-Identifier: Apache-2.0
"""The recorded future in place of a drawn one."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.distillation.futures import Future

__all__ = ["TrueFuture"]


class TrueFuture(Future):
    """The recorded trajectories, whatever the noise, against which self-distillation is measured."""

    def settings(self) -> dict[str, Any]:
        """See `Future.settings`."""
        return {"future": "recorded"}

    def draw(self, batch: Batch, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Future.draw`."""
        return {name: x[:, :, -noise[name].shape[2] :].cpu() for name, x in batch.clean.items()}
