# SPDX-License-Identifier: Apache-2.0
"""The folders of papers, for tests that lie outside them: whoever deletes one loses the tests that need it, no others."""

from pathlib import Path

import pytest

__all__ = ["need"]

PACKAGE = Path(__file__).resolve().parents[1] / "flashwam"


def need(folder: str) -> None:
    """Skips the test, or the file at whose top it is called, where a paper's folder has been deleted."""
    if not (PACKAGE / folder).is_dir():
        pytest.skip(f"flashwam/{folder} is not there", allow_module_level=True)
