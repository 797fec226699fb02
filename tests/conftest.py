# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of numbers made by the original implementations."""
    folder = Path(os.environ.get("FLASHWAM_GOLDEN", Path(__file__).resolve().parents[2] / "shared" / "golden"))
    if not (folder / "lingbot_va.safetensors").is_file():
        pytest.skip(f"no golden tensors in {folder}; set FLASHWAM_GOLDEN to their folder")
    return folder
