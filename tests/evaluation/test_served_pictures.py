# SPDX-License-Identifier: Apache-2.0
"""A served model whose picture is two views side by side is timed on pictures of that shape."""

import pytest

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

from tiny_models import save_tiny_student, tiny_codec, tiny_wam

from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.evaluation import served
from flashwam.run.real_time import RealTime
from flashwam.serve.client import PolicyClient
from flashwam.serve.model import load_served
from flashwam.serve.remote_policy import RemotePolicy
from flashwam.serve.server import serving
from flashwam.student import save_wam


class DrivenError(Exception):
    """Ends an evaluation when its episodes would begin."""


def test_a_picture_that_is_not_square_is_timed_as_a_whole(tmp_path, monkeypatch):
    given = []

    def begin(drive_one, tasks, label, kept):
        given.append(drive_one.keywords)
        raise DrivenError

    streams = {name: StreamSpec(name=name, schedule=NoiseSchedule(1.0)) for name in ("video", "action")}
    wide = tiny_wam(latent_size=(8, 16), attention_head_dim=32)
    save_wam(tmp_path / "model", wide, streams, kind="student", info={"name": "wide", "steps": 9})
    tiny_codec().save(tmp_path / "model")
    monkeypatch.setattr(served, "drive_tasks", begin)
    with serving(load_served(tmp_path / "model")) as server:
        with PolicyClient(server.url) as client:
            assert RemotePolicy(client).picture == (64, 128)
        with pytest.raises(DrivenError):
            served.evaluate_served(
                server.url, tasks=["reach-wall"], episodes=1, out=tmp_path, clock=RealTime(control_hz=20)
            )
    assert given[0]["size"] == 64
    assert given[0]["pace"].latency_ms > 0


def test_a_square_one_is_too(tmp_path):
    with (
        serving(load_served(save_tiny_student(tmp_path / "student"))) as server,
        PolicyClient(server.url) as client,
    ):
        assert RemotePolicy(client).picture == (64, 64)
