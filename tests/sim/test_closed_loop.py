# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from flashwam.core.consistency import make_consistency_function
from flashwam.core.noise import NoiseSchedule
from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.codec import Codec
from flashwam.sampling import StreamSampler
from flashwam.sim.closed_loop import run_task
from flashwam.sim.metaworld import EVAL_SEED_BASE, MetaWorldEnv
from flashwam.wam.lingbot_va.wam import LingBotVA

pytestmark = pytest.mark.usefixtures("simulator")


@pytest.fixture(scope="module")
def policy():
    """A model of random weights: where it goes does not matter, that it goes there again does."""
    torch.manual_seed(0)
    wam = LingBotVA.create(
        latent_size=(8, 8),
        chunk_frames=2,
        actions_per_frame=4,
        window_chunks=2,
        patch_size=(1, 4, 4),
        num_attention_heads=2,
        attention_head_dim=20,
        in_channels=3,
        out_channels=3,
        action_dim=4,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
    ).eval()
    norm = ActionNorm(q01=(-1.0,) * 4, q99=(1.0,) * 4, used=(0, 1, 2, 3))
    codec = Codec(autoencoder=FrameAutoencoder(latent_channels=3, width=16).eval(), actions=norm)
    linear = make_consistency_function("linear")
    samplers = {
        stream: StreamSampler(schedule=NoiseSchedule(shift), consistency=linear, steps=1)
        for stream, shift in (("video", 5.0), ("action", 1.0))
    }
    return wam, samplers, codec


def test_a_run_is_a_function_of_its_seed(policy):
    first, again, other = (run_task(*policy, "faucet-turn", episodes=2, seed=seed) for seed in (0, 0, 1))
    assert first.steps == again.steps == (64, 64)
    assert first.success == again.success == (False, False)
    assert first.ways == again.ways
    assert first.commitment == again.commitment
    assert first.chunks == other.chunks == 9


def test_every_chunk_is_executed_to_the_last_step(policy, monkeypatch):
    wam, samplers, codec = policy
    executed: dict[int, list] = {}
    step = MetaWorldEnv.step

    def spy(self, action):
        executed.setdefault(self.seed, []).append(action)
        return step(self, action)

    monkeypatch.setattr(MetaWorldEnv, "step", spy)
    run_task(wam, samplers, codec, "faucet-turn", episodes=2)
    assert sorted(executed) == [EVAL_SEED_BASE, EVAL_SEED_BASE + 1]
    assert all(np.shape(actions) == (64, 4) for actions in executed.values())
