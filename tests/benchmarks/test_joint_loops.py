# SPDX-License-Identifier: Apache-2.0
"""The published loop of the family that draws both streams together draws what our guided teacher draws."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from joint_loops import CapturedJointLoop, JointLoop, PublishedJointLoop, joint_inputs, joint_ways
from rollout import measure_joint
from rollout_table import table
from sizes import JOINT_SIZES, random_joint_wam
from torch.testing import assert_close

from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.cogvideox.chunk import action_tokens
from flashwam.wam.cogvideox.network import CogVideoXActionNetwork

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
STEPS = 3


@pytest.fixture(scope="module")
def wam() -> CogVideoX:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = random_joint_wam(JOINT_SIZES[0], **CPU).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for value in made.parameters():
        value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    return made


@torch.no_grad()
@pytest.mark.parametrize("kind", [PublishedJointLoop, CapturedJointLoop])
def test_the_published_loop_draws_what_our_guided_teacher_draws(wam: CogVideoX, kind: type[PublishedJointLoop]) -> None:
    inputs = joint_inputs(wam, **CPU)
    ours = JointLoop(wam, steps=STEPS, guided=True, **inputs).rollout
    noise = ours.noise()
    expected = ours.predict(noise)
    made = kind(wam, steps=STEPS, **inputs)
    for _ in range(2):
        made.chunk({"video": noise["video"].transpose(1, 2), "action": action_tokens(wam.config, noise["action"])})
        assert_close(made.drawn["video"].transpose(1, 2), expected["video"], atol=1e-4, rtol=1e-4)
        assert_close(made.drawn["action"], action_tokens(wam.config, expected["action"]), atol=1e-4, rtol=1e-4)
    assert float(expected["action"].std()) > 0.1


@torch.no_grad()
def test_every_way_takes_the_passes_and_tokens_that_it_says(wam: CogVideoX) -> None:
    for way in joint_ways(wam, steps=STEPS, **CPU):
        loop, rows, run = way.build(), [], CogVideoXActionNetwork.forward

        def counted(network, video, actions, text, *args, run=run, rows=rows, **how):
            rows.append(len(video))
            return run(network, video, actions, text, *args, **how)

        loop.chunk()
        with mock.patch.object(CogVideoXActionNetwork, "forward", counted):
            loop.chunk()
        tokens = wam.pass_tokens(wam.chunk_frames) + wam.text_shape[0]
        assert sum(rows) * tokens == way.tokens, way.name
        # On a CPU each prompt of ours has a pass of its own.
        assert len(rows) == (2 * way.passes if way.name.startswith("teacher") else way.passes)


def test_the_table_has_a_row_of_every_way_and_says_what_a_cpu_cannot_time() -> None:
    options = {"device": "cpu", "dtype": "float32", "rounds": 2, "slow_rounds": 1, "joint_steps": 30}
    *_, result = measure_joint(SimpleNamespace(**options), JOINT_SIZES[0])
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["published 30v/30a guided"]["ms"] > rows["student 1v/1a"]["ms"] > 0
    assert (rows["student 1v/1a"]["spread"]["count"], rows["teacher 30v/30a guided"]["spread"]["count"]) == (2, 1)
    assert rows["student graphed 1v/1a"]["ms"] is rows["published captured 30v/30a guided"]["ms"] is None
    page = table([result])
    assert f"cogvideox tiny ({result['parameters']:,} parameters), no past but the picture" in page
    assert "not measured: a CPU has no CUDA graphs" in page
