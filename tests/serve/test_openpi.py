# SPDX-License-Identifier: Apache-2.0
"""openpi's protocol: an observation in, a chunk of actions out."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_models import tiny_joint_wam
from websockets.sync.client import connect
from wire import closing

from flashwam.cli import main
from flashwam.data.episodes import CAMERA
from flashwam.serve.client import PolicyClient
from flashwam.serve.model import ServedModel
from flashwam.serve.openpi import OpenPISession, camera_keys
from flashwam.serve.options import ServerOptions
from flashwam.serve.protocol import Dialect, pack, unpack
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.tasks import get_task
from flashwam.system.errors import FailedError

KEY = "observation/image"


@pytest.fixture
def server(model):
    with serving(model, ServerOptions(port=0, protocol="openpi", cameras={CAMERA: KEY})) as running:
        yield running


class Client:
    """As openpi's own is written: the greeting, then a message for a message; a text is an error."""

    def __init__(self, url, **options):
        self.connection = connect(url, compression=None, max_size=None, **options)
        self.metadata = unpack(self.connection.recv())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.connection.close()

    def infer(self, observation):
        self.connection.send(pack(observation))
        reply = self.connection.recv()
        if isinstance(reply, str):
            raise RuntimeError(reply)
        return unpack(reply)


def first_actions(model, prompt, observation, *, seed):
    """The actions of an episode's first chunk, by the session that knows LingBot-VA's protocol."""
    session = PolicySession(model)
    session.reset(prompt, seed=seed)
    return session.infer(observation)[:, 1:].transpose(1, 2, 0).reshape(-1, 4)


def test_every_request_is_an_episode_of_its_own(server, model, episode):
    prompt, observations = episode(2)
    with Client(server.url) as client:
        assert client.metadata["cameras"] == [CAMERA]
        for number, seen in enumerate(observations[:3]):
            reply = client.infer({KEY: seen[CAMERA], "prompt": prompt, "seed": number, "observation/else": np.ones(3)})
            assert set(reply) == {"actions", "server_timing"}
            assert reply["actions"].dtype == np.float32
            assert_array_equal(reply["actions"], first_actions(model, prompt, seen, seed=number))
        # Without a seed the noise is new each time.
        one, other = (client.infer({KEY: observations[0][CAMERA], "prompt": prompt})["actions"] for _ in range(2))
        assert not np.array_equal(one, other)


def test_the_greeting_tells_how_many_actions_a_chunk_has(model, episode):
    _, observations = episode(1, frames=1)
    wholly = ServedModel(wam=tiny_joint_wam(), samplers=model.samplers, codec=model.codec, metadata=model.metadata)
    for served in (model, wholly):
        with serving(served, ServerOptions(port=0, protocol="openpi")) as running, Client(running.url) as client:
            actions = client.infer({CAMERA: observations[0][CAMERA], "prompt": "p"})["actions"]
            assert client.metadata["action_horizon"] == len(actions)
    assert len(actions) == 8


def test_clients_of_the_other_protocol_are_told_so(server, model, episode):
    """On both sides: by the greeting, and by the first message to a server, where nobody reads that."""
    prompt, observations = episode(1)
    with pytest.raises(FailedError, match=r"speaks 'openpi'.*and this client LingBot-VA's.*without --protocol openpi"):
        PolicyClient(server.url)
    crossed = [{"reset": True, "prompt": prompt}, {"obs": observations[0]}, {"compute_kv_cache": True, "state": 1}]
    for request in crossed:
        with (
            Client(server.url) as client,
            pytest.raises(RuntimeError, match=r"LingBot-VA's.*without --protocol openpi"),
        ):
            client.infer(request)
    with serving(model) as other:
        with Client(other.url) as client:
            assert client.metadata["protocol"] == "lingbot_va"
            assert "action_horizon" not in client.metadata
            with pytest.raises(RuntimeError, match=r"openpi's protocol.*: serve with --protocol openpi"):
                client.infer({"observation/image": observations[0][CAMERA], "prompt": prompt})
        with Client(other.url) as client, pytest.raises(RuntimeError, match="send reset with a prompt first"):
            client.infer({"obs": observations[0], "prompt": prompt})


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (lambda o: {"observation/wrist": o[CAMERA], "prompt": "p"}, "its pictures are .*observation/wrist.*--camera"),
        (lambda o: {KEY: o[CAMERA]}, "'prompt' must be the instruction"),
        (lambda o: {KEY: o[CAMERA][:, :9], "prompt": "p"}, "must be a picture"),
        (lambda o: [1, 2], "a request is a map"),
        (lambda o: {KEY: o[CAMERA], "prompt": "p", "seed": -1}, "seed must be a whole number"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_in_text(server, episode, request_of, message):
    _, observations = episode(1)
    with Client(server.url) as client:
        with pytest.raises(RuntimeError, match=message):
            client.infer(request_of(observations[0]))
        assert closing(client.connection)[1] == 1011


def test_a_long_prompt_is_told_and_the_session_goes_on(model, episode):
    prompt, observations = episode(1)
    options = ServerOptions(port=0, protocol="openpi", max_prompt_characters=200)
    with serving(model, options) as server, Client(server.url) as client:
        with pytest.raises(RuntimeError, match="LongPromptError"):
            client.infer({CAMERA: observations[0][CAMERA], "prompt": "x" * 201})
        assert client.infer({CAMERA: observations[0][CAMERA], "prompt": prompt})["actions"].shape == (4, 4)


def test_a_token_is_sent_as_openpi_sends_it(model):
    with serving(model, ServerOptions(port=0, protocol="openpi", token="secret")) as server:
        with Client(server.url, additional_headers={"Authorization": "Api-Key secret"}) as client:
            assert client.metadata["controls"] == 4
        with pytest.raises(Exception, match="401"):
            Client(server.url)


def test_keys_of_cameras_are_checked():
    assert camera_keys(["top", "wrist"], {"top": "observation/image"}) == {"top": "observation/image", "wrist": "wrist"}
    with pytest.raises(ValueError, match="no camera 'side'; its cameras are top, wrist"):
        camera_keys(["top", "wrist"], {"side": "x"})
    with pytest.raises(ValueError, match="a key of its own"):
        camera_keys(["top", "wrist"], {"top": "wrist"})
    with pytest.raises(ValueError, match="are for the protocol openpi"):
        ServerOptions(cameras={"top": "x"})
    with pytest.raises(ValueError, match="protocol must be one of lingbot_va, openpi"):
        ServerOptions(protocol="pi")


def test_the_command_says_how_a_camera_reads(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "runs/a", "--protocol", "openpi", "--camera", "observation/image"])
    assert "expected CAMERA=KEY" in capsys.readouterr().err


def test_dialects_are_answered_in_kind(model, episode):
    _, observations = episode(1)
    session = OpenPISession(model, keys={CAMERA: CAMERA})
    assert session.dialect == Dialect()
    kind, reply = session.handle({CAMERA: observations[0][CAMERA], "prompt": "p"})
    assert (kind, reply["actions"].shape) == ("infer", (4, 4))
    assert {"text", "vae"} <= set(session.stages)


@pytest.mark.usefixtures("simulator")
def test_openpis_own_client_completes_a_closed_loop(server):
    # Without what it declares, which is numpy below 2.
    pytest.importorskip("openpi_client", reason="pip install --no-deps openpi-client && pip install dm-tree")
    pytest.importorskip("tree", reason="pip install dm-tree")
    from openpi_client.action_chunk_broker import ActionChunkBroker
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    policy = WebsocketClientPolicy(server.url)
    told = policy.get_server_metadata()
    assert (told["protocol"], told["controls"], told["action_horizon"]) == ("openpi", 4, 4)
    broker = ActionChunkBroker(policy, action_horizon=told["action_horizon"])
    env = MetaWorldEnv(replace(get_task("button-press"), max_steps=24))
    picture, done = env.reset(1), False
    while not done:
        action = broker.infer({KEY: picture, "prompt": env.task.prompt})["actions"]
        assert action.shape == (4,)
        done, _, _ = env.step(action)
        picture = env.render()
    assert env.steps == 24
    with pytest.raises(RuntimeError, match="Error in inference server"):
        policy.infer({"prompt": "p"})
