# SPDX-License-Identifier: Apache-2.0
"""A student that is served from the device answers as one on the CPU does, in this process and over the wire."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from compared_models import MODELS
from numpy.testing import assert_allclose
from tiny_models import tiny_codec

from flashwam.core.streams import StreamSpec
from flashwam.data.episodes import CAMERA
from flashwam.serve.model import load_served
from flashwam.serve.session import PolicySession
from flashwam.student import save_wam

pytestmark = pytest.mark.gpu
STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm", "guidance_scale": 2.0}),
    "action": StreamSpec.from_config("action", {"shift": 1.0, "steps": 2}),
}
WITHIN = 2e-3
"""Of controls between -1 and 1, over two chunks."""


@pytest.fixture(params=["lingbot_va", "cogvideox"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Folder of a teacher with its codec."""
    save_wam(tmp_path, MODELS[request.param](), STREAMS, kind="teacher", info={"teacher": None})
    tiny_codec().save(tmp_path)
    return tmp_path


def observations() -> list[dict[str, np.ndarray]]:
    pictures = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return [{CAMERA: picture} for picture in pictures]


def two_chunks(policy: PolicySession) -> list[np.ndarray]:
    """Of a session, or of a client, which has the same methods."""
    seen = observations()
    policy.reset("push the button", seed=5)
    first = policy.infer(seen[0])
    # The first frame is the observation itself.
    policy.refresh(seen[1 : first.shape[1]], first)
    return [first, policy.infer(None)]


@pytest.mark.parametrize("nfe", ["1v/1a", "2v/3a"])
def test_a_session_answers_as_on_the_cpu(nfe: str, checkpoint: Path, device: torch.device) -> None:
    served = load_served(checkpoint, nfe=nfe, device=str(device))
    assert next(served.wam.parameters()).device.type == device.type
    expected = two_chunks(PolicySession(load_served(checkpoint, nfe=nfe)))
    assert float(np.ptp(expected[1])) > 0.1
    for ours, theirs in zip(two_chunks(PolicySession(served)), expected, strict=True):
        assert_allclose(ours, theirs, atol=WITHIN)


def test_a_server_answers_as_a_session(checkpoint: Path, device: torch.device) -> None:
    """Two episodes at once."""
    pytest.importorskip("websockets")
    pytest.importorskip("msgpack")
    from flashwam.serve.client import PolicyClient
    from flashwam.serve.options import ServerOptions
    from flashwam.serve.server import serving

    served = load_served(checkpoint, nfe="1v/1a", device=str(device))
    expected = two_chunks(PolicySession(served))
    with (
        serving(served, ServerOptions(port=0)) as running,
        PolicyClient(running.url) as one,
        PolicyClient(running.url) as other,
        ThreadPoolExecutor(2) as both,
    ):
        answers = list(both.map(two_chunks, [one, other]))
    for ours in answers:
        for got, theirs in zip(ours, expected, strict=True):
            assert_allclose(got, theirs, atol=1e-5)
