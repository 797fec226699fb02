# SPDX-License-Identifier: Apache-2.0
"""A step reads no number back from the device, and what went wrong in it is said all the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from waves import STREAMS, Waves, loop, make

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import Method, make_method
from flashwam.distillation.trainer import train
from flashwam.distillation.watch import AtOnce, Watch

# Guidance is one number a step that is drawn on the host.
PLAIN = STREAMS | {"video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm"})}


class Reads(TorchDispatchMode):
    """Counts numbers that the host asks for: `item`, `float`, `bool`, `tolist`, a shape that depends on values."""

    count = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = torch.Tag.data_dependent_output in call.tags or torch.Tag.dynamic_output_shape in call.tags
        self.count += waits
        return call(*args, **(kwargs or {}))


def test_between_two_lines_of_the_log_no_step_waits_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reads, counts = make(), Reads(), []
    config = loop("consistency", steps=5, batch_size=2, log_every=4, save_every=9, diagnose_every=0)
    method = make_method(config, PLAIN, model, teacher=make())
    update = Method.after_step

    def after_step(self: Method, decay: float) -> None:
        update(self, decay)
        counts.append(reads.count)

    monkeypatch.setattr(Method, "after_step", after_step)
    with reads:
        train(method, Waves(), config, run_dir=tmp_path, seed=0)
    first, second, third, logged, _ = counts
    assert second == third
    # So reads are seen where there are any.
    assert logged > third > 0
    assert first > 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 4, 5]


def test_a_condition_is_looked_at_when_its_step_is_over() -> None:
    watch, yes, no = Watch(), torch.tensor(True), torch.tensor(False)
    for step, holds in enumerate((yes, no, no)):
        watch.step = step
        watch.note(holds, lambda step=step: ValueError(f"step {step}"))
    watch.look(before=1)
    with pytest.raises(ValueError, match="step 1"):
        watch.look(before=2)
    # Of what follows from a failure nothing is said.
    watch.look()
    with pytest.raises(ValueError, match="now"):
        AtOnce().note(no, lambda: ValueError("now"))


def test_an_answer_is_waited_for_on_the_device_that_sends_it(monkeypatch) -> None:
    recorded = []

    class Event:
        def record(self, stream) -> None:
            recorded.append(stream)

    class Holds:
        is_cuda, device = True, torch.device("cuda:1")

        def detach(self) -> "Holds":
            return self

    class Sent:
        def copy_(self, holds, *, non_blocking) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: Sent())
    Watch().note(Holds(), lambda: ValueError())
    assert recorded == [torch.device("cuda:1")]
