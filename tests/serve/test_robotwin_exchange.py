# SPDX-License-Identifier: Apache-2.0
"""RoboTwin's client of LingBot-VA, replayed message by message against the server.

Letters: U controls, F latent frames of a chunk, N controls per latent frame.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation
from tiny_released import save_released
from websockets.sync.client import connect
from wire import closing, get, nd, wait_for

from flashwam.data.poses import relative_poses
from flashwam.sampling import Rollout, samplers_for
from flashwam.serve.model import load_served
from flashwam.serve.options import ServerOptions
from flashwam.serve.server import PolicyServer, serving
from flashwam.serve.session import PolicySession
from flashwam.student import load_wam
from flashwam.wam.lingbot_va.codec import LingBotCodec
from flashwam.wam.lingbot_va.presets import preset

PROMPTS = ("Use the left arm to shake the bottle.", "Put the red block on the plate.")
CAMERAS = [f"observation.images.cam_{place}" for place in ("high", "left_wrist", "right_wrist")]
U, F, N = 16, 2, 16
STEPS = {"video": 2, "action": 2}
SEEDS = (11, 12)


def packed(message: Any) -> bytes:
    """As the client packs: arrays and numpy scalars by keys of bytes."""

    def encode(x: Any) -> dict[bytes, Any]:
        return (
            nd(x) if isinstance(x, np.ndarray) else {b"__npgeneric__": True, b"data": x.item(), b"dtype": x.dtype.str}
        )

    return msgpack.packb(message, default=encode)


def sights(seed: int, number: int) -> list[dict[str, Any]]:
    """Simulator's observations: three pictures, a state and the task, of which the server is to ignore two."""
    rng = np.random.default_rng(seed)
    return [
        {key: rng.integers(0, 256, (240, 320, 3), np.uint8) for key in CAMERAS}
        | {"observation.state": rng.normal(size=U), "task": "shake_bottle"}
        for _ in range(number)
    ]


class Client:
    """Speaks as the published one: one connection, one message for a message, a text is an error."""

    def __init__(self, url: str) -> None:
        self.connection = connect(url, compression=None, max_size=None, ping_interval=None)
        self.metadata = msgpack.unpackb(self.connection.recv())
        self.answered = 0

    def ask(self, **request: Any) -> dict[str, Any]:
        self.connection.send(packed(request))
        reply = self.connection.recv()
        if isinstance(reply, str):
            raise RuntimeError(reply)
        told = msgpack.unpackb(reply)
        timing = told.pop("server_timing")
        assert list(timing) == ["infer_ms", "prev_total_ms"][: 1 + bool(self.answered)]
        assert all(isinstance(value, float) and value >= 0 for value in timing.values())
        self.answered += 1
        return told

    def reset(self, prompt: str) -> None:
        assert self.ask(reset=True, prompt=prompt, save_visualization=False) == {}

    def infer(self, first: dict[str, Any], prompt: str) -> np.ndarray:
        """A chunk [U, F, N]; the client shows the episode's first observation every time."""
        told = self.ask(
            obs=first, prompt=prompt, save_visualization=False, video_guidance_scale=5, action_guidance_scale=1
        )
        assert list(told) == ["action"]
        array = told["action"]
        assert list(array) == [b"__ndarray__", b"data", b"dtype", b"shape"]
        assert (array[b"__ndarray__"], array[b"dtype"], array[b"shape"]) == (True, "<f4", [U, F, N])
        return np.ndarray(array[b"shape"], array[b"dtype"], buffer=array[b"data"])

    def cache(self, seen: list[dict[str, Any]], state: np.ndarray) -> None:
        assert self.ask(obs=seen, compute_kv_cache=True, imagine=False, save_visualization=False, state=state) == {}


def keyframes(chunk: int, seed: int) -> list[dict[str, Any]]:
    """One after every N / 4 controls that are executed; of the first chunk's frames the first is not."""
    executed = (F - 1 if chunk == 0 else F) * N
    return sights(100 * seed + chunk, executed // (N // 4))


def episode(client: Client, prompt: str, seed: int, chunks: int = 3) -> list[np.ndarray]:
    """The answers to an episode's requests, the last of which is a chunk that nothing follows."""
    first, drawn = sights(seed, 1)[0], []
    client.reset(prompt)
    for chunk in range(chunks):
        drawn.append(client.infer(first, prompt))
        if chunk < chunks - 1:
            client.cache(keyframes(chunk, seed), drawn[-1])
    return drawn


def local(folder: Path, prompt: str, seed: int, chunks: int = 3) -> list[np.ndarray]:
    """The same episode without a server or its session, on the same noise."""
    wam, info = load_wam(folder, preset="robotwin")
    codec = LingBotCodec.from_pretrained(folder, "robotwin").open()
    first, drawn = codec.encode(sights(seed, 1)), []
    rollout = Rollout(
        wam,
        samplers_for(info.streams, steps=STEPS, teacher=True),
        text=codec.text(prompt),
        null_text=codec.text("")[0],
        first={"video": first, "action": torch.zeros(1, 30, 1, N, 1)},
        generator=torch.Generator().manual_seed(seed),
    )
    for chunk in range(chunks):
        drawn.append(codec.actions(rollout.predict()["action"]))
        if chunk < chunks - 1:
            video, action = codec.encode(keyframes(chunk, seed)), codec.executed(drawn[-1])
            if chunk == 0:
                video, action[:, :, :1] = torch.cat([first, video], 2), 0.0
            rollout.observe({"video": video, "action": action})
    return drawn


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_released(tmp_path_factory.mktemp("robotwin") / "base", (*PROMPTS, ""), layers=2)


@pytest.fixture
def served(released: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PolicyServer]:
    """Its clients name no seed; the noise of their episodes is that of `SEEDS`, in turn."""
    reset, episodes = PolicySession.reset, count()
    monkeypatch.setattr(
        PolicySession, "reset", lambda self, prompt, **_: reset(self, prompt, seed=SEEDS[next(episodes) % 2])
    )
    with serving(load_served(released, preset="robotwin", nfe="2v/2a"), ServerOptions(port=0)) as running:
        # Warming up resets, too.
        episodes = count()
        yield running


def test_the_client_of_these_tests_packs_as_the_original(golden_message: tuple[dict[str, Any], bytes]) -> None:
    message, wire = golden_message
    assert packed(message) == wire


def test_two_episodes_over_one_connection_are_those_of_a_local_rollout(served: PolicyServer, released: Path) -> None:
    assert get(served, "/healthz")[2] == b"OK\n"
    client = Client(served.url)
    assert isinstance(client.metadata, dict)
    for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
        drawn = episode(client, prompt, seed)
        for one, other in zip(drawn, local(released, prompt, seed), strict=True):
            assert_array_equal(one, other, strict=True)
        assert not np.array_equal(drawn[1], drawn[2])
    assert client.answered == 2 * (1 + 3 + 2)
    client.connection.close()


def test_controls_are_poses_as_the_client_executes_them(served: PolicyServer) -> None:
    """Relative to where the arms stood as the episode began, as in the data: left arm and gripper, then right."""
    client = Client(served.url)
    drawn = episode(client, PROMPTS[0], SEEDS[0])
    client.connection.close()
    settings = preset("robotwin")
    low, high = (np.array(q)[list(settings.used)] for q in (settings.q01, settings.q99))
    assert_array_equal(settings.used, [*range(7), 28, *range(7, 14), 29])
    # The client leaves the padding out: it has quaternions of length zero.
    assert_allclose(drawn[0][:, 0], np.repeat((low + high)[:, None] / 2, N, 1), atol=1e-5)
    limit = settings.actions().limit
    rows = np.concatenate([drawn[0][:, 1:], *drawn[1:]], 1).reshape(U, -1).T
    assert len(rows) == (3 * F - 1) * N
    assert (np.abs((rows - low) / (high - low + 1e-6) * 2 - 1) <= limit).all()

    begin = np.array([0.1, -0.2, 0.9, 0, 0, 0.6, 0.8, 1, -0.1, -0.2, 0.9, 0.5, -0.5, 0.5, 0.5, 0], np.float64)
    absolute, unit = rows.astype(np.float64), rows.astype(np.float64)
    for arm in (0, 8):
        place, turn = slice(arm, arm + 3), slice(arm + 3, arm + 7)
        rotations = Rotation.from_quat(rows[:, turn])
        absolute[:, place] += begin[place]
        absolute[:, turn] = (Rotation.from_quat(begin[turn]) * rotations).as_quat()
        unit[:, turn] /= np.linalg.norm(unit[:, turn], axis=1, keepdims=True)
    again = relative_poses(np.concatenate([begin[None], absolute]))[1:]
    for arm in (0, 8):
        turn = slice(arm + 3, arm + 7)
        again[:, turn] *= np.sign((again[:, turn] * unit[:, turn]).sum(1, keepdims=True))
    assert_allclose(again, unit, atol=1e-6)


def test_an_error_ends_one_client_and_no_other(served: PolicyServer, released: Path) -> None:
    healthy, wrong = Client(served.url), Client(served.url)
    first = sights(SEEDS[0], 1)[0]
    healthy.reset(PROMPTS[0])
    chunk = healthy.infer(first, PROMPTS[0])
    wrong.reset(PROMPTS[1])
    drawn = wrong.infer(first, PROMPTS[1])
    with pytest.raises(RuntimeError, match=r"ValueError: .*multiple of 4"):
        wrong.cache(keyframes(0, SEEDS[0])[:3], drawn)
    assert closing(wrong.connection)[:2] == ([], 1011)
    healthy.cache(keyframes(0, SEEDS[0]), chunk)
    expected = local(released, PROMPTS[0], SEEDS[0], chunks=2)
    assert_array_equal(healthy.infer(first, PROMPTS[0]), expected[1])
    healthy.connection.close()
    # Who connects anew begins anew.
    again = Client(served.url)
    assert_array_equal(episode(again, PROMPTS[0], SEEDS[0], chunks=2), expected)
    again.connection.close()
    wait_for(lambda: served.metrics()["sessions"] == {"open": 0, "served": 3, "failed": 1})
