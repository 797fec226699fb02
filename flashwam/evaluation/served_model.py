# SPDX-License-Identifier: Apache-2.0
"""The record of a measurement through a policy server: what it tells of its model, and where results go."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["described_by_server", "refuse_earlier", "served_how"]


def described_by_server(told: Mapping[str, Any]) -> dict[str, Any]:
    """Describes a served model for an evaluation's record, as `flashwam.evaluation.policy.described` does a loaded one.

    Args:
        told: What its server greets with; an earlier version, or another's, does not tell all of it.
    """
    return {
        "kind": told.get("kind") or "student",
        "step": told.get("step"),
        "nfe": dict(told.get("nfe") or {}),
        "training_seed": told.get("training_seed"),
        "sampler": told.get("sampler", "own"),
        "precision": told.get("precision", "own"),
        "family": told.get("family", ""),
        "guidance": {n: s["guidance_scale"] for n, s in told.get("streams", {}).items() if s["guidance_scale"] != 1},
    }


def served_how(told: Mapping[str, Any], word: str = "served") -> str:
    """The part of an evaluation's name that says how a served model is driven: "served", "served_t0.5"."""
    sampler = told.get("sampler", "own")
    return word if sampler == "own" else f"{word}_{sampler}"


def refuse_earlier(path: Path) -> None:
    """Refuses to measure where a measurement lies.

    Raises:
        FileExistsError: There is one.
    """
    if path.exists():
        raise FileExistsError(
            f"{path} holds an earlier measurement, and a served model is measured anew: give another out= folder "
            "(--out), or move the file away"
        )
