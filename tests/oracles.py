# SPDX-License-Identifier: Apache-2.0
"""The folder that holds the numbers of the original implementations."""

import os
from pathlib import Path

import pytest

ORACLES = (
    "lingbot_va.safetensors",
    "lingbot_va.json",
    "lingbot_va_full_window.safetensors",
    "lingbot_va_full_window.json",
    "videovla.safetensors",
)


def oracle_folder() -> Path:
    """`tests/golden`, or the folder that FLASHWAM_GOLDEN names; a file that is missing there fails the test."""
    folder = Path(os.environ.get("FLASHWAM_GOLDEN") or Path(__file__).resolve().parent / "golden")
    missing = [name for name in ORACLES if not (folder / name).is_file()]
    if missing:
        pytest.fail(
            f"{folder} lacks {', '.join(missing)}: get them back with git checkout tests/golden, "
            "or let FLASHWAM_GOLDEN name a folder that holds every oracle",
            pytrace=False,
        )
    return folder
