# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of a chunk, stage by stage: from an idle device to an idle one."""

import pytest
import torch
from tiny_models import tiny_joint_wam, tiny_wam

from flashwam.core.streams import StreamSpec
from flashwam.evaluation.latency import draw_latency
from flashwam.sampling import samplers_for

CHUNKS = 3


@pytest.mark.parametrize("make", [tiny_wam, tiny_joint_wam])
def test_a_device_is_waited_for_before_and_after_every_stage(make, monkeypatch):
    """The CPU too, which goes the way of every other device."""
    waited, real = [], torch.cpu.synchronize

    def synchronize(device):
        waited.append(device)
        return real(device)

    monkeypatch.setattr(torch.cpu, "synchronize", synchronize)
    wam = make().eval()
    specs = {name: StreamSpec.from_config(name, {"shift": 1.0}) for name in wam.streams}
    samplers = samplers_for(specs, steps=dict.fromkeys(wam.streams, 2), teacher=True)
    told = draw_latency(wam, samplers, torch.zeros(2, 32), chunks=CHUNKS)
    stages = ["+".join(stage) for stage in wam.stages]
    assert waited == [torch.device("cpu")] * (2 * CHUNKS * len(stages))
    assert list(told) == [*(f"{stage}_ms" for stage in stages), "chunk_ms"]
    assert told["chunk_ms"] == sum(told[f"{stage}_ms"] for stage in stages)
    assert min(told.values()) > 0
