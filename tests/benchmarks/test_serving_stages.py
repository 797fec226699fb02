# SPDX-License-Identifier: Apache-2.0
"""The stages that are timed one by one make up the chunk that a server sends."""

import numpy as np
import pytest
import serving
import torch


@pytest.mark.parametrize("size", ["tiny", "cogvideox tiny"])
def test_stages_one_by_one_give_what_the_server_gives(size: str) -> None:
    pytest.importorskip("websockets")
    pytest.importorskip("msgpack")
    one = serving.robot(size, "dynamic", device=torch.device("cpu"), dtype=torch.float32)
    wire, reset, sent = serving.over_the_wire(one, 5)
    early, _, ahead = serving.over_the_wire(one, 5, early=True)
    stages, made = serving.by_stage(one, 5)
    assert float(np.ptp(made)) > 0.1
    np.testing.assert_allclose(sent, made, atol=1e-5)
    np.testing.assert_allclose(ahead, made, atol=1e-5)
    assert reset > 0
    for told, timed in zip(wire, stages, strict=True):
        assert told["both"] == pytest.approx(told["refresh"] + told["infer"])
        assert 0 < told["messages and wire"] < told["both"]
        assert set(timed) == {*serving.STAGES, "sum"}
        assert timed["sum"] == pytest.approx(sum(timed[stage] for stage in serving.STAGES))
    ages = serving.ages(stages, window=3)
    assert (ages["young"]["count"], ages["full"]["count"]) == (0, 2)
    result = {
        "size": size,
        "rollout": "dynamic",
        "encoder": "plain",
        "precision": "fp8",
        "window": 3,
        "dtype": "float32",
        "warm_up_seconds": 0.0,
        "peak_bytes": None,
        "reset_ms": reset,
        "wire": serving.ages(wire, window=3),
        "early": serving.ages(early, window=3),
        "stages": ages,
    }
    page = serving.table([result])
    assert "peak not measured GiB" not in page
    assert f"### {size}, float32 with fp8, rollout dynamic" in page
    assert "| chunk | not measured |" in page
