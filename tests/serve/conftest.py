# SPDX-License-Identifier: Apache-2.0
"""A student of random weights, saved as a run would, and what it answers."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

from tiny_models import tiny_codec, tiny_wam

from flashwam.core.streams import StreamSpec
from flashwam.data.episodes import CAMERA
from flashwam.serve.codec import FrameCodec
from flashwam.serve.model import load_served
from flashwam.serve.server import ServerOptions, serving
from flashwam.student import save_wam

STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm"}),
    "action": StreamSpec.from_config("action", {"shift": 1.0, "steps": 2}),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a student with its codec: chunks of 2 frames, 4 actions a frame, pictures of 64 pixels."""
    folder = tmp_path_factory.mktemp("run") / "student"
    wam = tiny_wam()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in wam.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    recipe = {"data": {"root": "data/nowhere", "tasks": ["faucet-turn"]}, "evaluate": {"episodes": 1}}
    save_wam(folder, wam, STREAMS, kind="student", info={"steps": 7, "name": "tiny", "recipe": recipe})
    tiny_codec(q01=(-0.9, -1.0, -0.5, -1.0), q99=(0.8, 1.0, 1.0, 1.0)).save(folder)
    return folder


@pytest.fixture(scope="session")
def model(checkpoint):
    """What the server serves."""
    return load_served(checkpoint)


@pytest.fixture
def server(model):
    """A server of its own for a test."""
    with serving(model, ServerOptions(port=0, max_message_bytes=2**20)) as running:
        yield running


@pytest.fixture(scope="session")
def episode():
    """Makes what a robot sees and is told: seed -> prompt, observations."""

    def make(seed, frames=5):
        rng = np.random.default_rng(seed)
        pictures = rng.integers(0, 255, (frames, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        return f"do thing {seed}", [{CAMERA: picture} for picture in pictures]

    return make


@pytest.fixture
def slow(model):
    """The model with a codec that waits, when it has begun to encode, and the two events of that."""
    entered, go_on = threading.Event(), threading.Event()

    class Slow(FrameCodec):
        def encode(self, observations):
            entered.set()
            assert go_on.wait(30)
            return super().encode(observations)

    codec = model.codec()._codec
    yield replace(model, codec=lambda: Slow(codec, size=(64, 64))), entered, go_on
    go_on.set()
