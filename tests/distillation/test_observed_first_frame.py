# SPDX-License-Identifier: Apache-2.0
"""Stages that follow each other in chunks that begin with the observation: a later one is told it, and what the earlier
ones drew behind it, in a rollout and by every method that trains under draws."""

from pathlib import Path

import pytest
import torch
from torch import nn

from flashwam.core.batch import Batch
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import DistributionMatching, OnPolicy, Pairs
from flashwam.distillation.setup import Setup
from flashwam.sampling import Rollout, samplers_for
from flashwam.wam.base import WorldActionModel
from flashwam.wam.layout import Layout

SEEN, DRAWN = 7.0, 5.0
TOLD = [SEEN, DRAWN, DRAWN]
LAYOUT = Layout(
    streams=("video", "action"),
    shapes={"video": (1, 1, 1), "action": (1, 1, 1)},
    chunk_frames=3,
    conditions_on_first=True,
)
SPECS = {name: StreamSpec(name=name, schedule=NoiseSchedule(1.0)) for name in LAYOUT.streams}


class Toy(WorldActionModel):
    """Draws a constant video, and as actions the video that it is told; notes that."""

    layout = LAYOUT

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.told = []

    def velocity(self, noisy, sigma, clean, context):
        found = {}
        for name, x in noisy.items():
            if name == "action":
                self.told.append(clean["video"][0].flatten().tolist())
            data = torch.full_like(x, DRAWN) if name == "video" else clean["video"][:, :, -x.shape[2] :]
            found[name] = (x - data) / sigma[name][:, None, :, None, None].clamp(min=1e-3) + self.bias
        return found


@pytest.fixture
def batch():
    """Two windows of a chunk whose frames are all as the first was seen."""
    x = torch.full((2, 1, 3, 1, 1), SEEN)
    return Batch(
        clean=dict.fromkeys(SPECS, x),
        history=dict.fromkeys(SPECS, x),
        mask=dict.fromkeys(SPECS, torch.ones_like(x, dtype=torch.bool)),
        given=torch.tensor([[True, False, False]] * 2),
        text=torch.zeros(2, 1, 1),
        null_text=torch.zeros(1, 1),
        index=torch.arange(2),
    )


@pytest.fixture
def draws():
    return Draws(seed=0, step=0, positions=range(2))


def test_in_a_rollout():
    seen = {name: torch.full((1, 1, 1, 1, 1), SEEN) for name in SPECS}
    samplers = samplers_for(SPECS, steps=dict.fromkeys(SPECS, 1), teacher=True)
    drawn = Rollout(Toy(), samplers, text=torch.zeros(1, 1, 1), first=seen).predict()
    assert drawn["action"].flatten().tolist() == pytest.approx(TOLD)


def test_by_on_policy_to_student_and_teacher(batch, draws):
    student, teacher = Toy(), Toy()
    OnPolicy(SPECS, student, teacher=teacher, teacher_steps=2).loss(batch, draws)
    assert student.told[-1] == teacher.told[-1] == pytest.approx(TOLD)


def test_by_matching_of_the_students_own_draws(batch, draws):
    student = Toy()
    DistributionMatching(SPECS, student, teacher=Toy(), video_slot="own", rollout_steps=1).loss(batch, draws)
    assert student.told[-1] == pytest.approx(TOLD)


def test_by_pairs(batch, tmp_path):
    class Windows:
        def batch(self, indices):
            return batch.rows([0] * len(indices))

    method = Pairs(SPECS, Toy(), teacher=Toy(), first_share=None)
    setup = Setup(data=Path(tmp_path), streams=SPECS, seed=0, batch_size=2, batches=2)
    pairs = method.source(Windows(), setup).batch([0, 1])
    for drawn in (pairs.history["video"], pairs.clean["action"]):
        assert drawn[0].flatten().tolist() == pytest.approx(TOLD)
