# SPDX-License-Identifier: Apache-2.0
"""Recorded calls are made again over the same tensors, and what a capture would refuse is refused."""

import contextlib

import pytest
import torch

from flashwam.wam import recording as recordings
from flashwam.wam.lingbot_va.patches import keep_used
from flashwam.wam.recording import CallRecorder, CannotRecordError, Recordings


def test_replays_compute_what_tensors_hold_now_at_addresses_that_stay() -> None:
    x, kept = torch.ones(3, 4), torch.zeros(4, 3)

    def work() -> torch.Tensor:
        kept.copy_((2 * x).t())
        first, second = kept.split([1, 3])
        return torch.cat([first, second.exp()]).softmax(0)

    recording = CallRecorder().record(work)
    address = recording.result.data_ptr()
    for value in (3.0, -1.0):
        x.copy_(torch.linspace(0, value, 12).view(3, 4))
        expected = work().clone()
        kept.zero_()
        recording.replay()
        assert torch.equal(recording.result, expected)
        assert recording.result.data_ptr() == address
        assert torch.equal(kept, 2 * x.t())


def test_what_python_decides_is_held_fast() -> None:
    x, factor = torch.ones(2), [2.0]
    recording = CallRecorder().record(lambda: x * factor[0])
    factor[0] = 5.0
    recording.replay()
    assert recording.result.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("work", [lambda x: x * x.sum().item(), lambda x: x[x > 0]], ids=["number", "shape"])
def test_work_that_depends_on_data_is_refused(work) -> None:
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        CallRecorder().record(lambda: work(torch.ones(3)))


def test_work_that_copies_from_the_host_is_refused() -> None:
    x = torch.ones(3, device="meta")
    with pytest.raises(RuntimeError, match="from one device to another"):
        CallRecorder().record(lambda: x + torch.tensor([1.0, 2.0, 3.0]).to("meta"))


def test_a_model_that_was_moved_is_recorded_where_it_is(monkeypatch) -> None:
    monkeypatch.setattr(recordings, "CudaRecorder", lambda device: device)
    held, plain = Recordings(), torch.nn.Linear(1, 1)
    for place in ("cuda:0", "cuda:1", "cuda:1"):
        held.check(torch.device(place), plain)
        assert held._recorder == torch.device(place)
    with pytest.raises(CannotRecordError, match="need a GPU, and the model is on cpu"):
        held.check(torch.device("cpu"), plain)


def test_what_is_recorded_under_autocast_reads_the_weights_as_they_are() -> None:
    """Autocast keeps rounded copies of weights for the passes of its context; a replay comes after that."""
    torch.manual_seed(0)
    layer, x, held = torch.nn.Linear(8, 8), torch.randn(4, 8), recorder_on()
    for begun in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            if begun:
                layer(x)
            recording = held.record(lambda: layer(x))
            assert torch.is_autocast_cache_enabled()
        with torch.no_grad():
            layer.weight.mul_(-2)
            recording.replay()
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert torch.equal(recording.result, layer(x))


def recorder_on(device: str = "cpu", given: CallRecorder | None = None) -> Recordings:
    held = Recordings(given or CallRecorder())
    held.check(torch.device(device), torch.nn.Linear(1, 1))
    return held


def test_works_own_error_is_its_callers_and_nothing_else_is_left_unrecorded() -> None:
    held, weight = recorder_on(), torch.ones(3, 2)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        held.record(lambda: torch.ones(1, 4) @ weight, compiled=lambda: torch.ones(1, 4) @ weight)
    assert held.failed == ""
    assert held.record(lambda: torch.ones(1, 3) @ weight, compiled=lambda: torch.ones(1, 3) @ weight) is not None
    assert held.count == 1


def test_memory_that_one_pass_lacked_may_be_there_for_others(caplog) -> None:
    class Full(CallRecorder):
        full = True

        def record(self, work):
            if self.full:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().record(work)

    full, x = Full(), torch.ones(2)
    held = recorder_on(given=full)
    assert held.record(lambda: 2 * x, compiled=lambda: x + x) is None
    assert held.failed == ""
    assert "out of memory" in caplog.text
    full.full = False
    made = []
    assert held.record(lambda: 2 * x, compiled=lambda: made.append(1) or x + x) is not None
    assert made


def test_a_pass_that_cannot_be_recorded_ends_recording() -> None:
    held, x = recorder_on(), torch.ones(3)
    assert held.record(lambda: x * x.sum().item()) is None
    assert "cannot be recorded" in held.failed
    assert held.record(lambda: 2 * x) is None


def test_what_is_kept_of_a_session_without_gradients_serves_a_training() -> None:
    x = torch.ones(1, 7, 1, 1, 1, requires_grad=True)
    with torch.inference_mode():
        keep_used("action", x.detach(), (0, 5))
    keep_used("action", x, (0, 5)).sum().backward()
    assert x.grad.flatten().tolist() == [1, 0, 0, 0, 0, 1, 0]


def test_a_capture_is_on_a_stream_of_the_recorders_own_device(monkeypatch) -> None:
    captured = []

    class Stream:
        def __init__(self, device=None) -> None:
            self.device = device

        def wait_stream(self, other) -> None:
            pass

    class Captured(contextlib.nullcontext):
        def __init__(self, graph, *, stream, **_) -> None:
            super().__init__()
            captured.append(stream.device)

    for name, stand_in in {
        "Stream": Stream,
        "graph": Captured,
        "CUDAGraph": object,
        "graph_pool_handle": lambda: (0, 0),
        "current_stream": Stream,
        "stream": contextlib.nullcontext,
        "device": contextlib.nullcontext,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for place in ("cuda:0", "cuda:1"):
        assert recordings.CudaRecorder(torch.device(place)).record(lambda: 7).result == 7
    assert captured == [torch.device("cuda:0"), torch.device("cuda:1")]
