# SPDX-License-Identifier: Apache-2.0
"""One command drives a model of the released layout in LIBERO from the device, by the controls of one on the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tiny_released import save_released

pytest.importorskip("websockets")
from libero_stand_ins import libero_stand_in

from flashwam.cli import main

pytestmark = pytest.mark.gpu
WITHIN = 2e-3
"""Of controls between -1 and 1, over two chunks."""


@pytest.mark.parametrize("nfe", ["1v/1a", "2v/3a"])
def test_a_suite_is_driven_as_on_the_cpu(
    nfe: str,
    device: torch.device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suite = libero_stand_in(monkeypatch, tmp_path, size=128)
    model = save_released(tmp_path / "released", ["do 1", ""])
    words = ["evaluate", str(model), "--sim", "libero", "--suite", "libero_10", "--nfe", nfe, "--dtype", "float32"]
    words += ["--tasks", "1", "--episodes", "1", "--max-steps", "20", "--json", "-"]
    driven = []
    for place in ("cpu", str(device)):
        assert main([*words, "--device", place, "--out", str(tmp_path / f"out{len(driven)}")]) == 0
        (result,) = json.loads(capsys.readouterr().out)
        assert result["model"]["device"] == place
        assert result["asked"]["settings"]["device"] == torch.device(place).type
        driven.append(np.array(suite.controls))
        suite.controls.clear()
    expected, ours = driven
    assert ours.shape == (20, 7)
    assert float(np.ptp(expected)) > 0.1
    assert_allclose(ours, expected, atol=WITHIN)
