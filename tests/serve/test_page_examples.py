# SPDX-License-Identifier: Apache-2.0
"""The loops of the pages, run as they stand against a server, by a robot that sees one picture after another."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_models import tiny_joint_wam, tiny_wam

from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession

DOCS = Path(__file__).resolve().parents[2] / "docs"
CHUNKS, PER_FRAME = 3, 4


class Robot:
    """Sees the next picture whenever it looks, and notes what it executes."""

    def __init__(self, observations, chunks):
        self.observations, self.chunks, self.looked, self.executed = observations, chunks, 0, []

    def look(self):
        self.looked += 1
        return self.observations[self.looked - 1]

    def execute(self, control):
        self.executed.append(control)

    def execute_frame(self, controls):
        self.executed += list(controls.T)
        return [self.look()]

    def running(self):
        self.chunks -= 1
        return self.chunks >= 0


@pytest.fixture(params=["history", "present"])
def served(request, model):
    """One that remembers chunks of three frames, and one that begins every chunk at the picture and executes two."""
    wam = tiny_wam(chunk_frames=3) if request.param == "history" else tiny_joint_wam()
    told = {"chunk_frames": wam.chunk_frames, "actions_per_frame": PER_FRAME}
    return replace(model, wam=wam.eval(), metadata={**model.metadata, **told})


def example(page, beginning):
    """The block of a page that begins with these lines."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    (found,) = (block for block in blocks if block.startswith(beginning))
    return found


def alone(model, observations, *, chunks):
    """Gives what a session draws when it is told of every frame, written out from the protocol: [T, U], and pictures seen."""
    session = PolicySession(model)
    session.reset("press the button", seed=0)
    executed, seen, padding = [], 1, 1
    for _ in range(chunks):
        chunk = session.infer(observations[0])
        frames = chunk.shape[1] - padding
        executed += [chunk[:, padding + k, n] for k in range(frames) for n in range(PER_FRAME)]
        session.refresh(observations[seen : seen + frames], chunk)
        seen, padding = seen + frames, 0
    return np.stack(executed), seen


def test_the_plain_loop(served, episode):
    _, observations = episode(3, frames=12)
    robot = Robot(observations, CHUNKS)
    block = example("real_time.md", "from flashwam.serve.client import PolicyClient, controls_between_pictures\n")
    with serving(served) as server:
        exec(
            block.replace("ws://127.0.0.1:29536", server.url),
            {"look": robot.look, "execute": robot.execute, "running": robot.running},
        )
    expected, seen = alone(served, observations, chunks=CHUNKS)
    assert_array_equal(robot.executed, expected)
    assert robot.looked == seen


def test_the_loop_that_does_not_wait(served, episode):
    """It asks a frame early, so its first chunk alone is that of a robot which waits."""
    _, observations = episode(3, frames=12)
    robot = Robot(observations[1:], 5)
    block = example("commands.md", "from flashwam.serve.ahead import ChunkStream\n")
    names = {"observation": observations[0], "execute": robot.execute_frame, "running": robot.running}
    with serving(served) as server:
        exec(block.replace("ws://127.0.0.1:29536", server.url).replace("wait=False", "wait=True"), names)
    assert len(robot.executed) == 5 * PER_FRAME
    expected, _ = alone(served, observations, chunks=1)
    assert_array_equal(robot.executed[: len(expected)], expected)


def test_prompts_are_embedded_ahead(model):
    block = example("real_time.md", "from flashwam.serve.client import PolicyClient\n")
    with serving(model) as server:
        exec(block.replace("ws://127.0.0.1:29536", server.url), {})
    assert server.metrics()["latency"]["reset"]["count"] == 2
