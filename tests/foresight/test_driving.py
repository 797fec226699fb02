# SPDX-License-Identifier: Apache-2.0
"""A foresight policy where models are measured and served."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tiny_models import tiny_codec

from flashwam.core.edm import EDMSchedule
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.data.episodes import CAMERA
from flashwam.evaluation.latency import latency_table
from flashwam.evaluation.policy import load_policy
from flashwam.foresight.policy import ForesightPolicy
from flashwam.run.card import model_card
from flashwam.serve.model import load_served
from flashwam.serve.session import PolicySession
from flashwam.student import push_to_hub, save_wam

Make = Callable[..., ForesightPolicy]


def saved(make_policy: Make, folder: Path) -> Path:
    streams = {
        "video": StreamSpec(name="video", schedule=NoiseSchedule(5.0), teacher_steps=1),
        "action": StreamSpec(name="action", schedule=EDMSchedule(), teacher_steps=2),
    }
    save_wam(folder, make_policy(), streams, kind="teacher", info={"name": "foresight", "teacher": "runs/teacher"})
    tiny_codec().save(folder)
    return folder


def test_milliseconds_are_split_over_the_policys_parts(make_policy: Make, tmp_path: Path) -> None:
    policy = load_policy(saved(make_policy, tmp_path / "run" / "teacher"))
    (timed,) = latency_table([(policy, "1v/2a")], out=tmp_path, rounds=1).values()
    parts = {key.removeprefix("part/").removesuffix("_ms") for key in timed if key.startswith("part/")}
    assert parts == {"backbone", "reference", "decouplers", "resampler", "expert"}
    looked = sum(timed[f"part/{name}_ms"] for name in parts - {"expert"})
    assert 0 < looked <= 1.5 * timed["video_ms"]
    assert 0 < timed["part/expert_ms"] <= 1.5 * timed["action_ms"]
    assert timed["chunk_ms"] == timed["video_ms"] + timed["action_ms"]


def test_a_policy_is_served_as_any_model_is(make_policy: Make, tmp_path: Path) -> None:
    served = load_served(saved(make_policy, tmp_path / "run" / "teacher"))
    assert served.metadata["nfe"] == {"video": 1, "action": 2}
    session = PolicySession(served)
    session.handle({"reset": True, "prompt": "press", "seed": 1})
    picture = {CAMERA: np.full((64, 64, 3), 100, dtype=np.uint8)}
    _, reply = session.handle({"obs": picture})
    controls, frames, per_frame = reply["action"].shape
    state = np.zeros((controls, frames, per_frame), dtype=np.float32)
    session.handle({"compute_kv_cache": True, "obs": [picture] * (frames - 1), "state": state})
    _, reply = session.handle({"obs": None})
    assert np.isfinite(reply["action"]).all()


def test_it_is_pushed_as_any_model_is(make_policy: Make, tmp_path: Path) -> None:
    folder = saved(make_policy, tmp_path / "run" / "teacher")
    api = SimpleNamespace(create_repo=lambda *_, **__: None, upload_folder=lambda **asked: asked["folder_path"])
    assert push_to_hub(folder, "lab/foresight", api=api) == str(folder)


def test_its_card_says_what_it_was_made_from(make_policy: Make, tmp_path: Path) -> None:
    card = model_card(saved(make_policy, tmp_path / "run" / "teacher"))
    assert "A policy made from `runs`: a velocity network, sampled in its own steps." in card
