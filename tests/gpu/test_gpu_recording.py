# SPDX-License-Identifier: Apache-2.0
"""A capture that fails says why, and leaves the device as it was: what follows is recorded."""

import pytest
import torch

from flashwam.wam.recording import CudaRecorder

pytestmark = pytest.mark.gpu


def test_after_a_capture_that_failed_others_are_made(device: torch.device) -> None:
    recorder, x = CudaRecorder(device), torch.ones(4, device=device)
    with pytest.raises(RuntimeError, match="captur"):
        recorder.record(lambda: x * x.sum().item())
    assert torch.cuda.current_stream(device) == torch.cuda.default_stream(device)
    recording = recorder.record(lambda: 2 * x)
    x.fill_(3)
    recording.replay()
    assert recording.result.tolist() == [6] * 4
    assert torch.rand(2, device=device).shape == (2,)
