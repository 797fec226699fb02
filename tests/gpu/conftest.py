# SPDX-License-Identifier: Apache-2.0
"""The device that the CPU is compared with: FLASHWAM_TEST_DEVICE, which may be the CPU itself."""

import pytest
import torch
from devices import chosen_device


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device on which the other half of a comparison runs, in full float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(chosen_device())
