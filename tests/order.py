# SPDX-License-Identifier: Apache-2.0
"""The test files that begin first."""

import os
from pathlib import Path

__all__ = ["SLOW", "place"]

SLOW = ("demo/test_demo.py", "test_notebooks.py", "distillation/test_distributed.py", "distillation/test_killed.py")
"""A process that came to one of them at last would keep the others waiting."""


def place(path: Path) -> int:
    """Sorts a file among the slow ones, or behind them."""
    name = os.path.relpath(path, Path(__file__).parent)
    return SLOW.index(name) if name in SLOW else len(SLOW)
