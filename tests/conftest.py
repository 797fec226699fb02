# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures."""

from pathlib import Path

import pytest
import torch
from oracles import oracle_folder

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of numbers made by the original implementations."""
    return oracle_folder()
