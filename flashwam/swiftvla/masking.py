# SPDX-License-Identifier: Apache-2.0
"""The draw of which of two modalities a training sample sees."""

from dataclasses import dataclass

from torch import Tensor

from flashwam.system.errors import InputError

__all__ = ["MaskPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskPolicy:
    """One draw per sample: without the auxiliary modality, without the primary one, or with both; never without both.

    Args:
        auxiliary: Probability of the first.
        primary: Probability of the second; higher ones show the student an input it never meets when it acts.

    Raises:
        ValueError: A probability is below 0, or they add up to more than 1.
    """

    auxiliary: float = 0.0
    primary: float = 0.0

    def __post_init__(self) -> None:
        if min(self.auxiliary, self.primary) < 0 or self.auxiliary + self.primary > 1:
            raise InputError(
                "mask: auxiliary and primary are probabilities of two things that never happen together, at least 0 "
                f"and at most 1 in sum; got {self.auxiliary} and {self.primary}"
            )

    @property
    def any(self) -> bool:
        """True if anything is ever masked."""
        return self.auxiliary + self.primary > 0

    def probability(self, modality: str) -> float:
        """Share of samples that lack a modality."""
        return {"auxiliary": self.auxiliary, "primary": self.primary}.get(modality, 0.0)

    def visible(self, u: Tensor) -> dict[str, Tensor]:
        """Modality -> bool [B], True where a sample sees it, from u uniform on [0, 1), [B]."""
        auxiliary = u < self.auxiliary
        primary = ~auxiliary & (u < self.auxiliary + self.primary)
        return {"auxiliary": ~auxiliary, "primary": ~primary}
