# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures, and which device the tests compute on."""

from pathlib import Path

import pytest
import torch
from devices import chosen_device, hide_gpus, why_not_here
from oracles import oracle_folder

hide_gpus()
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    device, gpu = chosen_device(), torch.cuda.is_available()
    for item in items:
        reason = why_not_here(device, gpu=gpu, marked=item.get_closest_marker("gpu") is not None)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of numbers made by the original implementations."""
    return oracle_folder()
