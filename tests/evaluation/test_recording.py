# SPDX-License-Identifier: Apache-2.0
"""A recording of a model is what it saw and did, and a past of the recording is the past that it had."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_student
from torch.testing import assert_close

from flashwam.core.scenes import HISTORY_SEED_BASE
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.episodes import episode_path, read_episode_list, read_frames, read_table, video_path
from flashwam.data.histories import Histories
from flashwam.data.latents import latent_path, read_latents
from flashwam.distillation.futures import TeacherFuture
from flashwam.distillation.own_pasts import own_pasts
from flashwam.evaluation.policy import load_policy
from flashwam.evaluation.recording import record
from flashwam.sampling import Rollout
from flashwam.sim import local_policy
from flashwam.sim.collect import collect
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.tasks import get_task

pytestmark = pytest.mark.usefixtures("simulator")
TASK, EPISODES = "faucet-turn", 2
FAMILIES = ("lingbot_va", "cogvideox")


class Watched(Rollout):
    """Keeps the noise and the draw of every chunk of the episodes driven last."""

    def __init__(self, *arguments, **options):
        Watched.drawn = []
        super().__init__(*arguments, **options)

    def predict(self):
        noise = self.noise()
        drawn = super().predict(noise)
        Watched.drawn.append((noise, drawn))
        return drawn


@pytest.fixture(scope="module", params=FAMILIES)
def lived(request, tmp_path_factory, simulator):
    """A student, its recording, and what happened meanwhile: by scene the controls and pictures, and every chunk."""
    root = tmp_path_factory.mktemp("recording")
    student = save_tiny_student(root / "student", joint=request.param == "cogvideox")
    done, looked, latents = {}, {}, []
    step, render = MetaWorldEnv.step, MetaWorldEnv.render
    video = type(load_policy(student).codec).video

    def stepped(self, action):
        done.setdefault(self.seed, []).append(action)
        return step(self, action)

    def rendered(self):
        picture = render(self)
        looked.setdefault(self.seed, []).append(picture)
        return picture

    def encoded(self, frames):
        latents.append(video(self, frames))
        return latents[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetaWorldEnv, "step", stepped)
        patch.setattr(MetaWorldEnv, "render", rendered)
        patch.setattr("flashwam.data.codec.Codec.video", encoded)
        patch.setattr(local_policy, "Rollout", Watched)
        counts = record(student, root / "out", episodes=EPISODES, progress=False)
    assert counts.episodes == {TASK: EPISODES}
    seen = torch.cat([x for x in latents if len(x) == EPISODES], 2)
    return student, root / "out", done, looked, seen, list(Watched.drawn)


def test_what_is_recorded_is_what_was_seen_and_done_to_the_bit(lived):
    _, root, done, looked, seen, _ = lived
    assert sorted(done) == [HISTORY_SEED_BASE + number for number in range(EPISODES)]
    for number, record_of in enumerate(read_episode_list(root / TASK)):
        scene = record_of["seed"]
        table = read_table(episode_path(root / TASK, number))
        executed = np.stack(done[scene])
        assert len(executed) == record_of["length"]
        assert executed.dtype == np.float32
        assert np.array_equal(table["executed_action"], executed)
        assert np.array_equal(table["action"], executed)
        rows = range(0, len(executed), 4)
        pictures = read_frames(video_path(root / TASK, number))
        assert np.array_equal(pictures[list(rows)], np.stack(looked[scene]))
        assert np.array_equal(pictures[1], pictures[0])
        segment = record_of["action_config"][0]
        assert (segment["start_frame"], segment["end_frame"]) == (0, rows[-1] + 1)
        kept = read_latents(latent_path(root / TASK, number, 0, rows[-1] + 1)).latents
        # The last chunk's pictures were not looked at any more.
        count = min(kept.shape[1], seen.shape[2])
        assert count >= kept.shape[1] - 3
        assert_close(kept[:, :count], seen[number, :, :count], atol=1e-5, rtol=1e-5)


def test_the_teacher_stands_where_the_model_stood(lived):
    """Asked with a student as its own teacher: from the same noise it draws the chunk that was drawn in closed loop."""
    student, root, _, _, _, drawn = lived
    policy = load_policy(student)
    episodes = EpisodeDataset(root, window_frames=2, split="all", norm=policy.codec.actions)
    future = TeacherFuture(policy.wam, policy.samplers("1v/1a"))
    compared = 0
    for pool in own_pasts(Histories(episodes, seed=0), policy.wam):
        batch = pool.source.batch(range(6))
        for row in range(batch.size):
            place, (number, _, start) = pool.chunk, pool.source._draw(row)
            chunk = place or start // policy.wam.execute_frames
            noise, expected = drawn[chunk]
            again = future.draw(batch.rows([row]), {name: x[number : number + 1] for name, x in noise.items()})
            for name, x in again.items():
                compared += 1
                assert float(x.abs().max()) > 0.1
                assert_close(x, expected[name][number : number + 1], atol=1e-5, rtol=1e-5)
    assert compared >= 12


def test_an_interrupted_recording_is_completed_to_the_same_bytes(lived):
    student, root, *_ = lived
    before = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    assert any(path.suffix == ".mp4" for path in before)
    for path in (episode_path(root / TASK, 1), video_path(root / TASK, 1), root / TASK / "meta" / "info.json"):
        path.unlink()
    record(student, root, episodes=EPISODES, progress=False)
    assert {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()} == before


def test_an_episode_that_ends_before_a_second_picture_shows_no_past(lived, tmp_path, monkeypatch):
    student = lived[0]
    short = replace(get_task(TASK), max_steps=4)
    monkeypatch.setattr("flashwam.evaluation.recording.get_task", lambda name: short)
    counts = record(student, tmp_path, episodes=1, progress=False)
    assert counts.frames == {TASK: 1}
    (told,) = read_episode_list(tmp_path / TASK)
    assert (told["length"], told["action_config"]) == (4, [])
    assert read_table(episode_path(tmp_path / TASK, 0))["executed_action"].shape == (4, 4)


def test_a_folder_holds_one_models_episodes_alone(lived, tmp_path):
    student, root, *_ = lived
    with pytest.raises(ValueError, match="recorded with another seed: record into another folder"):
        record(student, root, seed=1, progress=False)
    with pytest.raises(ValueError, match="recorded with another samplers: record into another folder"):
        record(student, root, nfe="2v/2a", progress=False)
    with pytest.raises(ValueError, match=r"holds a model's own episodes \(recording\.json\)"):
        collect(root, [TASK], episodes=1, progress=False)
    (tmp_path / TASK / "meta").mkdir(parents=True)
    (tmp_path / TASK / "meta" / "info.json").write_text(json.dumps({"fps": 80}))
    with pytest.raises(ValueError, match="holds episodes that were not recorded of a model"):
        record(student, tmp_path, progress=False)
