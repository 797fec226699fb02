# SPDX-License-Identifier: Apache-2.0
"""LeRobot's policy server for asynchronous inference, over gRPC on this machine."""

import pickle
import time
from concurrent import futures

import numpy as np
import pytest
import torch
from conftest import FRONT, PROMPT
from lerobot_policy_flashwam.__main__ import main
from lerobot_policy_flashwam.async_server import allow

from flashwam.serve.model import load_served
from flashwam.serve.session import PolicySession

grpc = pytest.importorskip("grpc", reason="needs pip install 'lerobot[async]'")


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A client of a running server."""
    # The server's logger makes a folder where it is imported.
    monkeypatch.chdir(tmp_path)
    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.async_inference.policy_server import PolicyServer
    from lerobot.transport import services_pb2_grpc

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(PolicyServer(PolicyServerConfig(fps=10)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield services_pb2_grpc.AsyncInferenceStub(channel)
    server.stop(None).wait()


def test_chunks_come_by_the_policy_server(stub, student, tmp_path, film):
    from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation
    from lerobot.transport import services_pb2
    from lerobot.transport.utils import send_bytes_in_chunks

    assert main([str(student), "--out", str(tmp_path / "policy")]) == 0
    allow()
    features = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["lift.pos", "turn.pos"]},
        FRONT: {"dtype": "image", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
    }
    asked = RemotePolicyConfig("flashwam", str(tmp_path / "policy"), features, actions_per_chunk=3, device="cpu")
    stub.Ready(services_pb2.Empty())
    stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(asked)))

    session, seen = PolicySession(load_served(student)), film(2)
    for number in range(2):
        robot = {"lift.pos": 0.1 * number, "turn.pos": 2.0, "front": seen[number], "task": PROMPT}
        told = TimedObservation(timestamp=time.time(), timestep=5 * number, observation=robot, must_go=True)
        stub.SendObservations(send_bytes_in_chunks(pickle.dumps(told), services_pb2.Observation))
        actions = pickle.loads(stub.GetActions(services_pb2.Empty()).data)
        session.reset(PROMPT, seed=number)
        drawn = session.infer({FRONT: seen[number]})[:, 1].T
        assert [action.get_timestep() for action in actions] == [5 * number + step for step in range(3)]
        np.testing.assert_array_equal(torch.stack([action.get_action() for action in actions]), drawn[:3])


def test_lerobots_own_list_is_added_to_once():
    from lerobot.async_inference import constants

    allow()
    allow()
    assert constants.SUPPORTED_POLICIES.count("flashwam") == 1
