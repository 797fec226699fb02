# SPDX-License-Identifier: Apache-2.0
"""A policy that never draws its video: nothing stands for frames under way, and it is said before a robot moves."""

import numpy as np
import pytest
from tiny_models import TINY_FORESIGHT, tiny_codec, tiny_wam

from flashwam.cli import main
from flashwam.core.streams import StreamSpec
from flashwam.data.episodes import CAMERA
from flashwam.data.pictures import FramePictures
from flashwam.foresight.policy import ForesightPolicy
from flashwam.foresight.scene import SceneEncoder
from flashwam.serve.ahead import ChunkStream
from flashwam.serve.client import PolicyClient
from flashwam.serve.model import load_served
from flashwam.serve.server import serving
from flashwam.student import save_wam
from flashwam.wam.layout import Layout

SEEN = {CAMERA: np.zeros((64, 64, 3), np.uint8)}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """An S-VAM policy that remembers chunks."""
    folder = tmp_path_factory.mktemp("run") / "student"
    streams = {
        name: StreamSpec.from_config(name, {"shift": shift, "steps": 1, "teacher_steps": 1})
        for name, shift in (("video", 5.0), ("action", 1.0))
    }
    wam = ForesightPolicy(
        tiny_wam(num_layers=3, chunk_frames=3),
        {"semantic": SceneEncoder(labels="colours", classes=8, width=6)},
        FramePictures(tiny_codec().autoencoder),
        blocks=[0, 1],
        **TINY_FORESIGHT,
    )
    assert wam.probes
    assert not wam.conditions_on_first
    save_wam(folder, wam, streams, kind="student", info={"teacher": "t"})
    tiny_codec().save(folder)
    return load_served(folder)


def test_its_greeting_promises_nothing_and_a_stream_is_refused_before_anything_moves(policy, capsys):
    assert policy.metadata["takes_under_way"] is False
    assert policy.at("1v/1a").metadata["takes_under_way"] is False
    with serving(policy) as server, PolicyClient(server.url) as client:
        with pytest.raises(ValueError, match="takes no frames that are under way: give under_way=0"):
            ChunkStream(client)
        state = np.zeros((4, 3, 4), np.float32)
        with pytest.raises(ValueError, match=r"takes no frames that are under way.*never draws what will be seen"):
            client.refresh([SEEN], state, under_way=1)
        stream = ChunkStream(client, under_way=0)
        stream.begin("p", SEEN, seed=0)
        for _ in range(6):
            assert stream.next().shape == (4, 4)
            stream.saw([SEEN])
        words = ["--tasks", "reach-wall", "--real-time", "--latency-ms", "20", "--meanwhile", "go_on"]
        assert main(["evaluate", "--server", server.url, *words]) == 2
    assert "takes no frames that are under way" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("facts", "never"),
    [
        ({}, ()),
        ({"probes": ("video",)}, ("video",)),
        ({"probes": ("action",)}, ()),
        ({"probes": ("video",), "conditions_on_first": True}, ()),
    ],
)
def test_nothing_stands_for_what_is_looked_at_alone_in_a_model_that_remembers_chunks(facts, never):
    shapes = {"video": (4, 2, 2), "action": (4, 4, 1)}
    assert Layout(streams=("video", "action"), shapes=shapes, chunk_frames=2, **facts).never_imagined == never
