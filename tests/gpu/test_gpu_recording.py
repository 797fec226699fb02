# SPDX-License-Identifier: Apache-2.0
"""A capture that fails says why, and leaves the device as it was: what follows is recorded."""

import pytest
import torch

from flashwam.wam.recording import CudaRecorder

pytestmark = pytest.mark.gpu


def test_after_a_capture_that_failed_others_are_made(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("captures are a GPU's")
    recorder, x = CudaRecorder(device), torch.ones(4, device=device)
    with pytest.raises(RuntimeError, match="captur"):
        recorder.record(lambda: x * x.sum().item())
    assert torch.cuda.current_stream(device) == torch.cuda.default_stream(device)
    recording = recorder.record(lambda: 2 * x)
    x.fill_(3)
    recording.replay()
    assert recording.result.tolist() == [6] * 4
    assert torch.rand(2, device=device).shape == (2,)


def test_each_device_has_its_own_captures() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    for number in range(2):
        x = torch.ones(4, device=f"cuda:{number}")
        recording = CudaRecorder(x.device).record(lambda x=x: 2 * x)
        x.fill_(3)
        recording.replay()
        assert recording.result.tolist() == [6] * 4
