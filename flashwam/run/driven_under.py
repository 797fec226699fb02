# SPDX-License-Identifier: Apache-2.0
"""The convention of its simulator that an evaluation was driven under, as its file tells it."""

from collections.abc import Mapping
from typing import Any

from flashwam.run.evaluation import Evaluation

__all__ = ["convention_of"]


def convention_of(one: Evaluation) -> Mapping[str, Any]:
    """The convention that an evaluation tells; empty where it tells none."""
    simulator = one.more.get("simulator")
    convention = simulator.get("convention") if isinstance(simulator, Mapping) else None
    return convention if isinstance(convention, Mapping) else {}
