# SPDX-License-Identifier: Apache-2.0
"""In bfloat16 every pass rounds weights for itself, so that a gradient finds its way to them."""

from typing import ClassVar

import pytest
import torch
from distill_toys import GaussianTeacher, ToySource, ToyWam

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import make_method
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig

STREAMS = {name: StreamSpec.from_config(name, {"shift": 5.0}) for name in ("video", "action")}


class NotesCache(ToyWam):
    """Notes whether weights that autocast has cast are kept for the next pass."""

    kept: ClassVar[set[bool]] = set()

    def velocity(self, noisy, sigma, clean, context):
        assert torch.is_autocast_enabled(noisy["video"].device.type)
        self.kept.add(torch.is_autocast_cache_enabled())
        return super().velocity(noisy, sigma, clean, context)


@pytest.mark.parametrize("method", ["consistency", "on_policy"])
def test_what_a_pass_without_gradient_rounds_is_rounded_anew_in_the_next(tmp_path, method):
    """Up to torch 2.10 the weights of the second would get no gradient."""
    config = LoopConfig(method=method, steps=2, batch_size=4, lr=1e-2, warmup_steps=1, precision="bf16")
    NotesCache.kept.clear()
    train(
        make_method(config, STREAMS, NotesCache.create(seed=1), teacher=GaussianTeacher()),
        ToySource(),
        config,
        run_dir=tmp_path,
        seed=3,
    )
    assert NotesCache.kept == {False}
