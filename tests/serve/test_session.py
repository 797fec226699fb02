# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_models import tiny_joint_wam

from flashwam.data.codec import Codec
from flashwam.data.episodes import CAMERA
from flashwam.sampling import Rollout
from flashwam.serve.codec import FrameCodec
from flashwam.serve.model import load_served
from flashwam.serve.session import PolicySession


def three_chunks(session, prompt, observations, *, seed):
    session.reset(prompt, seed=seed)
    chunks = []
    for seen in (observations[1:2], observations[2:4], observations[:0]):
        chunks.append(session.infer(observations[0]))
        if seen:
            session.refresh(seen, chunks[-1])
    return chunks


def test_chunks_are_those_of_the_closed_loop(model, checkpoint, episode):
    prompt, observations = episode(0)
    codec = Codec.load(checkpoint)
    pictures = [o[CAMERA] for o in observations]
    first = codec.video(pictures[0][None, None])
    zeros = torch.zeros(1, 4, 1, 4, 1)
    rollout = Rollout(
        model.wam,
        model.samplers,
        text=codec.text(prompt)[None],
        first={"video": first, "action": zeros},
        generator=torch.Generator().manual_seed(5),
    )
    chunks = three_chunks(PolicySession(model), prompt, observations, seed=5)

    drawn = rollout.predict()["action"]
    controls = codec.controls(drawn[:, :, 1:])
    assert chunks[0].shape == (4, 2, 4)
    assert chunks[0].dtype == np.float32
    assert_array_equal(chunks[0][:, 1], controls[0].T)
    seen = codec.video(np.stack(pictures[1:2])[None])
    executed = torch.cat([zeros, codec.executed(controls, 4)], 2)
    rollout.observe({"video": torch.cat([first, seen], 2), "action": executed})

    controls = codec.controls(rollout.predict()["action"])
    assert_array_equal(chunks[1].transpose(1, 2, 0).reshape(1, 8, 4), controls)
    rollout.observe({"video": codec.video(np.stack(pictures[2:4])[None]), "action": codec.executed(controls, 4)})

    controls = codec.controls(rollout.predict()["action"])
    assert_array_equal(chunks[2].transpose(1, 2, 0).reshape(1, 8, 4), controls)


def test_a_model_that_conditions_on_its_first_frame_is_served(model, checkpoint, episode):
    """It replies with what it acts out alone, and every chunk begins at the latest picture."""
    joint, codec = tiny_joint_wam().eval(), Codec.load(checkpoint)
    served = replace(model, wam=joint)
    prompt, observations = episode(0)
    session = PolicySession(served)
    session.reset(prompt, seed=5)
    first = session.infer(observations[0])
    assert first.shape == (4, 3, 4)  # padding, and two frames
    session.refresh(observations[1:3], first)
    second = session.infer(None)
    assert second.shape == (4, 2, 4)
    session.refresh(observations[3:5], second)

    generator = torch.Generator().manual_seed(5)
    for seen, reply in ((observations[0], first[:, 1:]), (observations[2], second)):
        rollout = Rollout(
            joint,
            served.samplers,
            text=codec.text(prompt)[None],
            first={"video": codec.video(seen[CAMERA][None, None]), "action": torch.zeros(1, 4, 1, 4, 1)},
            generator=generator,
        )
        controls = codec.controls(rollout.predict()["action"][:, :, 1:3])
        # Pictures that are encoded together differ in the last digit from the same ones alone.
        assert_allclose(reply.transpose(1, 2, 0).reshape(1, 8, 4), controls, atol=1e-5)


def test_padding_of_the_first_chunk_does_not_matter_and_later_observations_are_ignored(model, episode):
    prompt, observations = episode(1)
    expected = three_chunks(PolicySession(model), prompt, observations, seed=2)
    session = PolicySession(model)
    session.reset(prompt, seed=2)
    state = session.infer(observations[0])
    state[:, 0] = 0.7
    session.refresh(observations[1:2], state)
    assert_array_equal(session.infer(None), expected[1])


def test_what_was_executed_and_seen_matters(model, episode):
    prompt, observations = episode(1)
    expected = three_chunks(PolicySession(model), prompt, observations, seed=2)
    for change_state in (True, False):
        session = PolicySession(model)
        session.reset(prompt, seed=2)
        state = session.infer(observations[0])
        if change_state:
            state[:, 1] += 0.1
        session.refresh(observations[1:2] if change_state else observations[3:4], state)
        assert np.abs(session.infer(None) - expected[1]).max() > 1e-5


def test_a_reset_forgets_everything(model, episode):
    session = PolicySession(model)
    three_chunks(session, *episode(3), seed=1)
    again = three_chunks(session, *episode(4), seed=2)
    assert_array_equal(again, three_chunks(PolicySession(model), *episode(4), seed=2))


def test_a_reset_without_a_prompt_is_answered_and_ends_the_episode_as_the_originals_does(model, episode):
    session = PolicySession(model)
    expected = three_chunks(session, *episode(3), seed=1)
    for request in ({"reset": True}, {"reset": True, "prompt": None}):
        assert session.handle(request) == ("reset", {})
        for later in ({"obs": episode(3)[1][0], "prompt": episode(3)[0]}, {"compute_kv_cache": True}):
            with pytest.raises(ValueError, match="send reset with a prompt first"):
                session.handle(later)
    assert_array_equal(three_chunks(session, *episode(3), seed=1), expected)


def test_without_a_seed_chunks_differ(model, episode):
    session = PolicySession(model)
    prompt, observations = episode(0)
    session.reset(prompt)
    one = session.infer(observations[0])
    session.reset(prompt)
    assert np.abs(session.infer(observations[0]) - one).max() > 0


def test_interleaved_sessions_do_not_meet(model, episode):
    alone = [three_chunks(PolicySession(model), *episode(i), seed=i) for i in range(3)]
    sessions = [PolicySession(model) for _ in range(3)]
    for i, session in enumerate(sessions):
        session.reset(episode(i)[0], seed=i)
    for chunk, (begin, end) in enumerate(((1, 2), (2, 4), (0, 0))):
        for i, session in enumerate(sessions):
            _, observations = episode(i)
            drawn = session.infer(observations[0])
            assert_array_equal(drawn, alone[i][chunk])
            if end:
                session.refresh(observations[begin:end], drawn)


def test_codec_turns_controls_round(model, checkpoint):
    codec = FrameCodec(Codec.load(checkpoint), size=(64, 64))
    actions = torch.rand(1, 4, 2, 4, 1, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
    controls = codec.actions(actions)
    assert controls.shape == (4, 2, 4)
    torch.testing.assert_close(codec.executed(controls), actions, rtol=0, atol=1e-5)


def test_metadata_names_student_steps_and_functions(model, checkpoint):
    metadata = model.metadata
    assert (metadata["name"], metadata["kind"], metadata["step"]) == ("tiny", "student", 7)
    assert metadata["nfe"] == {"video": 1, "action": 2}
    assert metadata["streams"]["video"]["function"] == {"name": "lcm", "sigma_data": 0.5}
    assert metadata["streams"]["action"]["function"] == {"name": "linear"}
    assert (metadata["chunk_frames"], metadata["actions_per_frame"], metadata["picture_size"]) == (2, 4, [64, 64])
    assert load_served(checkpoint.parent, nfe="3v/1a").metadata["nfe"] == {"video": 3, "action": 1}


PICTURE = np.zeros((64, 64, 3), np.uint8)
STATE = np.zeros((4, 2, 4), np.float32)


@pytest.mark.parametrize(
    ("requests", "told"),
    [
        ([[]], "a map"),
        ([{}], "reset with a prompt"),
        ([{"reset": True}, {"obs": {CAMERA: PICTURE}}], "none with a prompt"),
        ([{"reset": "yes", "prompt": ""}], "true or false"),
        ([{"reset": True, "prompt": 3}], "needs a prompt"),
        ([{"reset": True, "prompt": "", "seed": -1}], "seed"),
        ([{"reset": True, "prompt": "", "seed": 0.5}], "seed"),
        ([{"reset": True, "prompt": ""}, {}], "maps from camera"),
        ([{"reset": True, "prompt": ""}, {"obs": {}}], "uint8"),
        ([{"reset": True, "prompt": ""}, {"obs": {CAMERA: PICTURE.astype(np.float32)}}], "float32"),
        ([{"reset": True, "prompt": ""}, {"obs": {CAMERA: PICTURE[:32]}}], r"\[32, 64, 3\]"),
        ([{"reset": True, "prompt": ""}, {"obs": [{CAMERA: PICTURE}] * 2}], "one observation; got 2"),
        ([{"reset": True, "prompt": ""}, {"compute_kv_cache": True}], "first observation"),
        (["begun", {"compute_kv_cache": True, "obs": [{CAMERA: PICTURE}]}], "executed controls"),
        (["begun", {"compute_kv_cache": True, "obs": [], "state": STATE}], "maps from camera"),
        (["begun", {"compute_kv_cache": True, "obs": [{CAMERA: PICTURE}] * 2, "state": STATE}], "2 latent frames"),
        (["begun", {"compute_kv_cache": True, "obs": [{CAMERA: PICTURE}], "state": STATE[:, :1]}], "executed controls"),
        (["begun", {"compute_kv_cache": True, "obs": [{CAMERA: PICTURE}], "state": STATE[:3]}], "4 controls"),
        (["begun", {"compute_kv_cache": True, "obs": [{CAMERA: PICTURE}], "state": STATE * np.nan}], "finite"),
    ],
)
def test_requests_out_of_order_or_shape_are_refused(model, requests, told):
    session = PolicySession(model)
    if requests[0] == "begun":
        requests = [{"reset": True, "prompt": ""}, {"obs": {CAMERA: PICTURE}}, *requests[1:]]
    for request in requests[:-1]:
        session.handle(request)
    with pytest.raises((ValueError, TypeError), match=told):
        session.handle(requests[-1])


def test_stages_are_timed(model, episode):
    session = PolicySession(model)
    prompt, observations = episode(0)
    session.handle({"reset": True, "prompt": prompt})
    assert set(session.stages) == {"text"}
    _, reply = session.handle({"obs": observations[0]})
    assert set(session.stages) == {"vae", "video", "action"}
    session.handle({"obs": observations[1:2], "compute_kv_cache": True, "state": reply["action"]})
    assert set(session.stages) == {"vae", "cache"}
