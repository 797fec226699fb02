# SPDX-License-Identifier: Apache-2.0
"""Data sets that are learned from together, held against each other: their rates and the names of their controls."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashwam.data.control_names import named_controls
from flashwam.data.episodes import read_info
from flashwam.data.segments import name_below

__all__ = ["unlike_sets"]

_SHOWN = 3


def unlike_sets(repos: Iterable[Path], root: Path, *, key: str = "action") -> list[str]:
    """Says in sentences in what data sets differ that a model learns from as if they were one; none where they agree.

    Args:
        repos: Their folders.
        root: The folder above them, from which they are named.
        key: Column of the actions.

    Raises:
        FileNotFoundError, ValueError: A `meta/info.json` is missing or damaged.
    """
    rates: dict[Any, list[str]] = {}
    controls: dict[Any, list[str]] = {}
    for repo in dict.fromkeys(repos):
        info, name = read_info(repo), name_below(repo, root)
        rates.setdefault(float(info["fps"]), []).append(name)
        if named := named_controls(info.get("features"), key):
            controls.setdefault(named, []).append(name)
    told = []
    if len(rates) > 1:
        shown = _listed({f"{rate:g} rows a second": sets for rate, sets in rates.items()})
        told.append(
            f"data sets of different rates are mixed, {shown}: so many rows are another time in each; bring them to "
            "one rate, or convert and train them apart"
        )
    if len(controls) > 1:
        shown = _listed({", ".join(names): sets for names, sets in controls.items()})
        told.append(
            f"data sets that name their controls differently are mixed, {shown}: one channel may mean another control "
            "in each; bring them to one order, or convert and train them apart"
        )
    return told


def _listed(groups: Mapping[str, list[str]]) -> str:
    """The groups, of each a few of its data sets."""
    return "; ".join(
        f"{what} in {', '.join(sets[:_SHOWN])}{f' and {len(sets) - _SHOWN} more' if len(sets) > _SHOWN else ''}"
        for what, sets in groups.items()
    )
