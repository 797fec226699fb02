# SPDX-License-Identifier: Apache-2.0
"""Milliseconds on the device: of every stage, as on the CPU."""

import pytest
import torch
from compared_models import MODELS

from flashwam.core.streams import StreamSpec
from flashwam.evaluation.latency import draw_latency
from flashwam.sampling import samplers_for

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", MODELS)
def test_every_stage_has_its_time(name: str, device: torch.device) -> None:
    wam = MODELS[name]().eval().to(device)
    specs = {stream: StreamSpec.from_config(stream, {"shift": 1.0}) for stream in wam.streams}
    steps = {stream: 1 if stream in wam.probes else 2 for stream in wam.streams}
    text = torch.zeros(3, wam.text_shape[1] or 32)
    told = draw_latency(wam, samplers_for(specs, steps=steps, teacher=True), text, chunks=3)
    stages = {f"{'+'.join(stage)}_ms" for stage in wam.stages}
    assert {key for key in told if not key.startswith("part/")} == stages | {"chunk_ms"}
    assert told["chunk_ms"] == pytest.approx(sum(told[stage] for stage in stages))
    assert min(told.values()) > 0
