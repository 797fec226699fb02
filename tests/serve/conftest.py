# SPDX-License-Identifier: Apache-2.0
"""A served student, and what it answers."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

from safetensors.numpy import load_file
from tiny_models import save_tiny_student

from flashwam.data.episodes import CAMERA
from flashwam.serve.codec import FrameCodec
from flashwam.serve.model import load_served
from flashwam.serve.options import ServerOptions
from flashwam.serve.server import serving


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return save_tiny_student(tmp_path_factory.mktemp("run") / "student")


@pytest.fixture(scope="session")
def model(checkpoint):
    """The model that the server serves."""
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


@pytest.fixture(scope="module")
def golden_message(golden_dir):
    """The original's object, rebuilt from the stored tensors, and the bytes it went over the wire as."""
    values = json.loads((golden_dir / "lingbot_va.json").read_text())
    tensors = load_file(golden_dir / "lingbot_va.safetensors")
    message = {
        "obs": {"k": tensors["msgpack/obj/obs/k"]},
        "prompt": values["msgpack/obj/prompt"],
        "reset": values["msgpack/obj/reset"],
        "state": tensors["msgpack/obj/state"],
        "s": np.float32(values["msgpack/obj/s"]),
    }
    return message, bytes.fromhex(values["msgpack/packed"]["bytes_hex"])
