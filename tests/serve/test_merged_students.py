# SPDX-License-Identifier: Apache-2.0
"""A student of adapters is served from recorded passes, which read the merged weights and nothing beside them."""

import logging
from itertools import zip_longest

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tiny_models import tiny_codec, tiny_joint_wam, tiny_wam

from flashwam.core.streams import StreamSpec
from flashwam.distillation.adapted_model import adapted
from flashwam.distillation.adapters import STUDENT, Adapters
from flashwam.recipe.sections import LoraConfig
from flashwam.serve.model import load_served
from flashwam.serve.options import ServerOptions
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession
from flashwam.student import save_wam
from flashwam.wam.cogvideox.graphed import RecordedNetwork
from flashwam.wam.lingbot_va.graphed import Lanes
from flashwam.wam.recording import CallRecorder

CHUNKS = 6
"""The window of the model that remembers is full after three."""


@pytest.fixture(scope="module", params=["remembers", "begins at the picture"])
def trained(request, tmp_path_factory):
    """Folder of a teacher's student of adapters as a run saves it, beside the teacher's."""
    wam = tiny_wam(num_layers=2) if request.param == "remembers" else tiny_joint_wam()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wam.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    streams = {
        "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm"}),
        "action": StreamSpec.from_config("action", {"shift": 1.0, "steps": 2}),
    }
    run = tmp_path_factory.mktemp("run")
    role = adapted(Adapters(wam, LoraConfig(rank=4, alpha=8.0)), STUDENT)
    teacher = adapted(role.adapters, None)
    with torch.no_grad():
        for parameter in role.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    for name, model in (("teacher", teacher), ("student", role)):
        save_wam(run / name, model, streams, kind="student", info={"name": name})
        tiny_codec().save(run / name)
    return run


def recorded_calls(served):
    """Serves it from recordings that a CPU can make; gives what counts them."""
    if hasattr(served.wam, "lanes"):
        served.wam.lanes = Lanes(CallRecorder(), compiled=False)
        return lambda: served.wam.lanes.recorded
    served.wam.recorded = RecordedNetwork(CallRecorder(), compiled=False)
    return lambda: served.wam.recorded.recordings.count


def chunks_of(served, episode, seed):
    """The chunks of an episode, one at a time."""
    session = PolicySession(served)
    prompt, seen = episode(seed, frames=CHUNKS * 3)
    session.reset(prompt, seed=seed)
    at = 1
    for _ in range(CHUNKS):
        drawn = session.infer(seen[0])
        yield drawn
        # Frame 0 of the first chunk is padding where the model does not begin at the picture.
        frames = drawn.shape[1] - int(at == 1)
        session.refresh(seen[at : at + frames], drawn)
        at += frames


def together(served, episode, seeds):
    """Chunks of several sessions that take turns."""
    turns = list(zip_longest(*(chunks_of(served, episode, seed) for seed in seeds)))
    return [np.stack(chunks[1:]) for chunks in zip(*turns, strict=True)]


def test_a_merged_student_draws_from_recordings_what_it_draws_plainly(trained, episode, caplog):
    graphed = load_served(trained / "student", rollout="graphed")
    recorded = recorded_calls(graphed)
    with caplog.at_level(logging.WARNING), serving(graphed, ServerOptions(port=0)):
        warm = recorded()
        drawn = together(graphed, episode, (1, 2))
        assert recorded() == warm > 0
        assert not caplog.records
    expected = together(load_served(trained / "student"), episode, (1, 2))
    assert_allclose(drawn, expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    teacher = together(load_served(trained / "teacher"), episode, (1, 2))
    assert np.abs(np.stack(expected) - np.stack(teacher)).max() > 1e-3
