# SPDX-License-Identifier: Apache-2.0
"""The device that the CPU is compared with: FLASHWAM_TEST_DEVICE, which may be the CPU itself."""

import os

import pytest
import torch
from devices import chosen_device

PART = "FLASHWAM_TEST_PART"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps one part of these tests, where several processes share them: "1/4" is every fourth from the second on."""
    number, _, parts = os.environ.get(PART, "0/1").partition("/")
    here = [item for item in items if item.path.parent.name == "gpu"]
    kept = set(here[int(number) :: int(parts)])
    items[:] = [item for item in items if item not in here or item in kept]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device on which the other half of a comparison runs, in full float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(chosen_device())
