# SPDX-License-Identifier: Apache-2.0
"""An unstripped policy that is shown its training modality when it acts too, to measure what it is worth there.

Letters: B samples, F latent frames, m auxiliary tokens, C their channels, L text tokens, D text width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from flashwam.swiftvla.session import FusionSession
from flashwam.swiftvla.training_policy import AUXILIARY, PrivilegedPolicy
from flashwam.swiftvla.trunk import Prefix
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["AccompaniedPolicy"]


class AccompaniedPolicy(WorldActionModel):
    """A policy with the auxiliary tokens as one more sense.

    Args:
        full: The policy with its projection.

    Raises:
        ValueError: It was trained without an auxiliary modality.
    """

    def __init__(self, full: PrivilegedPolicy) -> None:
        modality = full.auxiliary
        if modality is None:
            raise InputError("the policy was trained without an auxiliary modality: there is nothing to show it")
        shown = {AUXILIARY: modality.tokens * modality.channels}
        super().__init__(replace(full.layout, senses={**full.senses, **shown}))
        self.full, self.policy, self._modality = full, full.strip(), modality

    def prefix(self, clean: Mapping[str, Tensor], context: Mapping[str, Any]) -> Prefix:
        """As `FusionPolicy.prefix`, with the auxiliary tokens of the chunk's first frame.

        Args:
            clean: See `FusionPolicy.prefix`, and "auxiliary" [B, m * C, F, 1, 1].
            context: See `FusionPolicy.prefix`.
        """
        shown = self.policy.observed(clean[AUXILIARY]).flatten(1)
        shown = shown.unflatten(1, (self._modality.tokens, self._modality.channels))
        looked = self.policy.look(clean, context)
        return self.policy.trunk(list(self.full.segments(looked, clean, {**context, AUXILIARY: shown}).values()))

    def act(self, prefix: Prefix, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """See `FusionPolicy.act`."""
        return self.policy.act(prefix, noisy, sigma)

    def velocity(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """See `FusionPolicy.velocity`."""
        return {"action": self.act(self.prefix(clean, context), noisy["action"], sigma["action"])[0]}

    def session(
        self, text: Tensor, *, null_text: Tensor | None = None, guidance: Mapping[str, float] | None = None
    ) -> FusionSession:
        """See `WorldActionModel.session`."""
        return FusionSession(self, text, guidance=guidance)

    def pass_tokens(self, frames: int) -> int:
        """See `WorldActionModel.pass_tokens`."""
        return self.full.pass_tokens(frames)

    def deployed_parameters(self) -> dict[str, int]:
        """See `WorldActionModel.deployed_parameters`; the network that gives the tokens comes on top."""
        shown = [p for name, p in self.full.named_parameters() if name.startswith(("show.", "place"))]
        return {**self.policy.deployed_parameters(), "auxiliary projection": sum(p.numel() for p in shown)}
