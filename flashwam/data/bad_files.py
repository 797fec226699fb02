# SPDX-License-Identifier: Apache-2.0
"""Unusable parts of a data set: an error at once, or left out and listed."""

import logging
from dataclasses import dataclass, field

__all__ = ["BadFiles"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class BadFiles:
    """A list of what could not be read: an error at once, or skipped, counted and listed.

    Attributes:
        skip: Skip instead of raising.
        reasons: What was skipped -> why; the reason names the file.
    """

    skip: bool = False
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, error: Exception) -> None:
        """Notes that something is left out, or raises `error`."""
        if not self.skip:
            raise error
        if what not in self.reasons:
            self.reasons[what] = str(error)
            logger.warning("skipped %s (%d so far): %s", what, len(self.reasons), error)
