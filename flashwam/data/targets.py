# SPDX-License-Identifier: Apache-2.0
"""The folders that a conversion writes, told from data sets that no conversion made."""

import logging
from collections.abc import Iterable
from pathlib import Path

from flashwam.data.episodes import read_info
from flashwam.data.recordings import note_path
from flashwam.system.errors import InputError

__all__ = ["PICTURES", "PLAN_FILE", "check_targets", "take_back", "target_of"]

logger = logging.getLogger(__name__)

PLAN_FILE = "conversion.json"
"""Says how a conversion is made; lies beside its data sets and is written before them."""
PICTURES = ("video", "image")
"""Types of columns that a conversion leaves out."""


def target_of(raw: Path, out: Path, repo: Path) -> Path:
    """Gives the folder of a data set's result."""
    return out / repo.relative_to(raw) if repo != raw else out / repo.resolve().name


def check_targets(raw: Path, out: Path, repos: Iterable[Path]) -> None:
    """Refuses to write where data lie that no conversion made.

    Args:
        raw: Folder of the data sets that are converted.
        out: Folder of the result.
        repos: The data sets, some of them maybe linked from elsewhere.

    Raises:
        ValueError: `out` and a data set lie in each other, or a data set of another origin lies where one is to be
            written.
    """
    repos = list(repos)
    for source in (raw, *repos):
        if out.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(out.resolve()):
            raise InputError(f"the result {out} and the raw data {source} must not lie in each other")
    for target in (out, *(target_of(raw, out, repo) for repo in repos)):
        if (target / "meta" / "info.json").exists() and not _is_converted(target, out):
            raise InputError(
                f"{target} holds a data set that no conversion made, and its meta/ would be overwritten: convert into "
                f"another folder than {out}, or move that data set away"
            )


def _is_converted(target: Path, out: Path) -> bool:
    """Tells a conversion's data set by its notes of recordings; older ones, without, by the plan beside them and
    columns without pictures."""
    if any(note_path(target, 0).parents[1].glob("chunk-*/episode_*.json")):
        return True
    features = read_info(target).get("features") if (out / PLAN_FILE).is_file() else None
    return isinstance(features, dict) and not any(
        isinstance(feature, dict) and feature.get("dtype") in PICTURES for feature in features.values()
    )


def take_back(target: Path) -> None:
    """Lets no training find a data set that was left out, though an earlier call had it whole; its files stay.

    Args:
        target: Its folder, which `check_targets` passed.
    """
    whole = target / "meta" / "info.json"
    if whole.is_file():
        logger.warning("%s: nothing of it is kept any more, so it is no data set now", target)
        whole.unlink()
