# SPDX-License-Identifier: Apache-2.0
"""A released checkpoint behind the three requests, at a tiny size and in its own layout."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_released import save_released

from flashwam.evaluation.policy import load_policy
from flashwam.sampling import Rollout, samplers_for
from flashwam.serve.model import ServedModel, load_served
from flashwam.serve.session import PolicySession
from flashwam.serve.warm_up import warm_up
from flashwam.student import load_wam, save_wam
from flashwam.wam.lingbot_va.codec import LingBotCodec
from flashwam.wam.lingbot_va.graphed import Lanes
from flashwam.wam.lingbot_va.presets import preset
from flashwam.wam.recording import CallRecorder

PROMPT = "put the cup on the stove"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformer and autoencoder in bfloat16, and two prompts that were embedded elsewhere."""
    return save_released(tmp_path_factory.mktemp("released") / "base", (PROMPT, ""), layers=2)


def pictures(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    keys = preset("libero").cameras.cameras
    return [{key: rng.integers(0, 256, (100, 120, 3), np.uint8) for key in keys} for _ in range(count)]


def episode(model: ServedModel, *, early: Sequence[int] = ()) -> list[np.ndarray]:
    """Two chunks by the requests a client of the original sends, or with pictures that come early, so many at a time."""
    session, first, replies = PolicySession(model), pictures(1, 0)[0], []
    session.reset(PROMPT, seed=3)
    for count in (12, 16):
        replies.append(session.infer(first))
        seen = pictures(count, count)
        for each in early:
            session.look(seen[:each])
            seen = seen[each:]
        session.refresh(seen, replies[-1])
    return replies


def test_a_released_teacher_is_served_by_its_preset(released: Path) -> None:
    model = load_served(released, nfe="2v/2a", preset="libero")
    facts = model.metadata
    assert facts["cameras"] == ["observation.images.agentview_rgb", "observation.images.eye_in_hand_rgb"]
    assert (facts["controls"], facts["keyframes_per_frame"], facts["chunk_frames"]) == (7, 4, 4)
    assert facts["streams"]["video"]["guidance_scale"] == 5.0
    replies = episode(model)
    assert [(x.shape, x.dtype) for x in replies] == [((7, 4, 4), np.float32)] * 2

    wam, info = load_wam(released, preset="libero")
    codec = LingBotCodec.from_pretrained(released, "libero").open()
    seen = codec.encode(pictures(1, 0))
    rollout = Rollout(
        wam,
        samplers_for(info.streams, steps={"video": 2, "action": 2}, teacher=True),
        text=codec.text(PROMPT),
        null_text=codec.text("")[0],
        first={"video": seen, "action": torch.zeros(1, 30, 1, 4, 1)},
        generator=torch.Generator().manual_seed(3),
    )
    for reply, count in zip(replies, (12, 16), strict=True):
        controls = codec.actions(rollout.predict()["action"])
        np.testing.assert_array_equal(reply, controls)
        video = codec.encode(pictures(count, count))
        video = torch.cat([seen, video], 2) if count == 12 else video
        executed = codec.executed(controls)
        if count == 12:
            executed[:, :, :1] = 0.0
        rollout.observe({"video": video, "action": executed})


def test_a_student_is_served_by_the_codec_beside_it(released: Path, tmp_path: Path) -> None:
    wam, _ = load_wam(released, preset="libero")
    student = tmp_path / "run" / "student"
    save_wam(student, wam, preset("libero").released_student, kind="student")
    LingBotCodec.from_pretrained(released, "libero").save(student, checkpoint=released)
    model = load_served(tmp_path / "run")
    assert model.metadata["nfe"] == {"video": 1, "action": 1}
    assert model.metadata["streams"]["video"]["function"] == {"name": "lcm", "sigma_data": 0.5}
    replies = episode(model)
    with pytest.raises(ValueError, match="one picture per latent frame"):
        load_policy(student)
    moved = released.rename(released.parent / "moved")
    try:
        with pytest.raises(FileNotFoundError, match="vae"):
            load_served(student)
        again = episode(load_served(student, base=moved))
    finally:
        moved.rename(released)
    assert all(np.array_equal(a, b) for a, b in zip(replies, again, strict=True))


def test_what_a_client_sends_wrongly_is_named(released: Path) -> None:
    session = PolicySession(load_served(released, nfe="1v/1a", preset="libero"))
    session.reset(PROMPT)
    with pytest.raises(ValueError, match="no camera"):
        session.infer({"observation.images.top": np.zeros((8, 8, 3), np.uint8)})
    reply = session.infer(pictures(1, 0)[0])
    with pytest.raises(ValueError, match="multiple of 4"):
        session.refresh(pictures(11, 1), reply)
    session.refresh(pictures(12, 1), reply)
    with pytest.raises(FileNotFoundError, match="not among"):
        session.reset("another prompt")


def test_a_model_is_served_in_another_dtype_than_its_files(released: Path) -> None:
    served = load_served(released, nfe="1v/1a", preset="libero", dtype="float32")
    assert served.metadata["dtype"] == "float32"
    assert {p.dtype for p in served.wam.parameters()} == {torch.float32}
    assert load_served(released, nfe="1v/1a", preset="libero").metadata["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="dtype must be one of bfloat16, float32; got 'float16'"):
        load_served(released, dtype="float16", preset="libero")


@pytest.mark.parametrize("early", [(1,) * 12, (3, 6, 2), (12,)])
def test_pictures_may_come_as_they_are_seen(released: Path, early: tuple[int, ...]) -> None:
    """In whole latent frames of four or not."""
    model = load_served(released, preset="libero", dtype="float32", nfe="1v/1a")
    for one, other in zip(episode(model, early=early), episode(model), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_nothing_of_the_whole_chunk_is_recorded_for_the_first_robot(released: Path) -> None:
    """Pictures and passes alike; the chunks are those of the plain way."""
    options = {"nfe": "1v/1a", "preset": "libero", "dtype": "float32"}
    served, model = load_served(released, **options), load_served(released, rollout="graphed", **options)
    for one in (served, model):
        one.wam.config = replace(one.wam.config, window_chunks=3)
    plain = episode(served)
    assert model.metadata["encoder"] == "graphed"
    model.wam.lanes = Lanes(CallRecorder(), compiled=False)
    passes = []
    with torch.compiler.set_stance("force_eager"):
        vae = model.codec.__self__.vae
        vae.choose_encoder("graphed", recorder=CallRecorder())
        for _ in range(2):
            warm_up(model)
            passes.append((vae.passes.recorded, model.wam.lanes.recorded))
            replies = episode(model)
    passes.append((vae.passes.recorded, model.wam.lanes.recorded))
    assert passes[0] == passes[1] == passes[2]
    assert min(passes[0]) > 0
    for one, other in zip(replies, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_an_encoder_is_chosen_apart_from_the_rollout(released: Path, checkpoint: Path) -> None:
    chosen = load_served(released, nfe="1v/1a", preset="libero", rollout="graphed", encoder="plain")
    assert chosen.codec.__self__.vae.passes.way == chosen.metadata["encoder"] == "plain"
    with pytest.raises(ValueError, match="an autoencoder of single pictures, which is plain; got encoder 'compiled'"):
        load_served(checkpoint, encoder="compiled")
