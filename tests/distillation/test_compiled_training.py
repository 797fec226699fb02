# SPDX-License-Identifier: Apache-2.0
"""A training whose recipe says compile: the same numbers, and nothing is compiled after its first step."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from counting import CountingCompiler
from safetensors.torch import load_file
from torch.testing import assert_close
from waves import STREAMS, Waves, loop, make

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import Method, make_method
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig, LoraConfig
from flashwam.wam import compiling

LORA = LoraConfig(rank=4, alpha=8.0)
PLAIN = STREAMS | {"video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm"})}


def run(folder: Path, config: LoopConfig) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The numbers of every step, without what a clock says, and the student's weights."""
    model = make()
    method = make_method(config, PLAIN, model, teacher=model)
    student = train(method, Waves(), config, run_dir=folder, seed=0)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [{name: value for name, value in line.items() if "second" not in name} for line in lines]
    return numbers, load_file(next(student.glob("transformer/*.safetensors")))


def test_a_compiled_training_with_adapters_is_the_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"lora": LORA, "steps": 2, "batch_size": 2, "diagnose_every": 0}
    expected = run(tmp_path / "plain", loop("consistency", **config))

    compiler, counts = CountingCompiler("eager"), []
    compiling.compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compiler))
    update = Method.after_step

    def after_step(self: Method, decay: float) -> None:
        counts.append(len(compiler.graphs))
        update(self, decay)

    monkeypatch.setattr(Method, "after_step", after_step)
    try:
        got = run(tmp_path / "compiled", loop("consistency", compile=True, **config))
    finally:
        compiling.compiled.cache_clear()
    assert_close(got, expected, rtol=1e-5, atol=1e-5)
    # Two functions of a pass, the halves of a block, for each of: teacher, target and student.
    assert counts == [6] * 2


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp"])
def test_strategies_with_hooks_in_the_blocks_are_not_compiled(strategy: str) -> None:
    with pytest.raises(ValueError, match="compile must be false with zero2, zero3 and fsdp"):
        loop("consistency", compile=True, strategy=strategy)
