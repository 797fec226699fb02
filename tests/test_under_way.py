# SPDX-License-Identifier: Apache-2.0
"""A rollout whose next chunk is drawn while the last actions of this one are still executed."""

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_joint_wam, tiny_wam

from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.sampling import Rollout, StreamSampler

SAMPLERS = {
    name: StreamSampler(schedule=NoiseSchedule(1.0), consistency=Linear(), steps=1) for name in ("video", "action")
}


def rollout(wam):
    """An episode that has begun, and noise and happenings of its first two chunks."""
    generator = torch.Generator().manual_seed(0)

    def some(frames):
        shapes = {name: (1, c, frames, h, w) for name, (c, h, w) in wam.shapes.items()}
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    text = torch.randn(1, 3, 32, generator=generator)
    begun = Rollout(wam, SAMPLERS, text=text, first=some(1))
    return begun, [some(wam.chunk_frames) for _ in range(3)], [some(wam.chunk_frames) for _ in range(2)]


def told(happened, *, late=None, under_way=0):
    """A chunk as it is told: its actions, and pictures without those under way, behind those of the chunk before."""
    seen = happened["video"][:, :, : happened["video"].shape[2] - under_way]
    return {"video": seen if late is None else torch.cat([late, seen], 2), "action": happened["action"]}


def test_a_model_that_remembers_chunks_is_told_what_it_imagined_of_the_frames_under_way():
    wam = tiny_wam(chunk_frames=3).eval()
    (early, noise, happened), (whole, *_) = rollout(wam), rollout(wam)
    imagined = early.predict(noise[0])["video"][:, :, -1:]
    whole.predict(noise[0])
    early.observe(told(happened[0], under_way=1), under_way=1)
    whole.observe({**happened[0], "video": torch.cat([happened[0]["video"][:, :, :-1], imagined], 2)})
    assert early.executed == whole.executed == slice(0, 3)
    second, expected = early.predict(noise[1]), whole.predict(noise[1])
    torch.testing.assert_close(second, expected, rtol=0, atol=0)
    # What is seen of them later is not taken for frames of the next chunk.
    early.observe(told(happened[1], late=happened[0]["video"][:, :, -1:]))
    whole.observe(happened[1])
    torch.testing.assert_close(early.predict(noise[2]), whole.predict(noise[2]), rtol=0, atol=0)


def test_what_is_told_of_the_frames_under_way_matters():
    wam = tiny_wam(chunk_frames=3).eval()
    (early, noise, happened), (seen, *_) = rollout(wam), rollout(wam)
    for one, under_way in ((early, 1), (seen, 0)):
        one.predict(noise[0])
        one.observe(told(happened[0], under_way=under_way), under_way=under_way)
    assert not torch.equal(early.predict(noise[1])["action"], seen.predict(noise[1])["action"])


def test_a_model_that_begins_at_the_picture_passes_over_what_is_executed_meanwhile():
    """Its chunk has three frames after the picture, of which two are executed."""
    wam = tiny_joint_wam().eval()
    (early, noise, happened), (now, *_) = rollout(wam), rollout(wam)
    for one in (early, now):
        one.predict(noise[0])
    assert early.executed == slice(1, 3)
    frames = {name: x[:, :, 1:3] for name, x in happened[0].items()}
    early.observe(told(frames, under_way=1), under_way=1)
    now.observe({name: x[:, :, :1] for name, x in frames.items()})
    assert (early.executed, now.executed) == (slice(2, 4), slice(1, 3))
    torch.testing.assert_close(early.predict(noise[1]), now.predict(noise[1]), rtol=0, atol=0)
    early.observe(told(frames, late=frames["video"][:, :, 1:]))
    assert early.executed == slice(1, 3)


@pytest.mark.parametrize("under_way", [-1, 3])
def test_something_must_be_seen_between_two_chunks(under_way):
    begun, noise, happened = rollout(tiny_wam(chunk_frames=3).eval())
    begun.predict(noise[0])
    with pytest.raises(ValueError, match="a frame must be seen between two chunks"):
        begun.observe(happened[0], under_way=under_way)


def test_a_model_that_never_draws_its_video_has_to_hold():
    begun, noise, happened = rollout(tiny_wam(chunk_frames=3).eval())
    with pytest.raises(ValueError, match="no chunk was drawn whose actions could be under way"):
        begun.observe(told(happened[0], under_way=1), under_way=1)
    begun.predict(noise[0])
    begun.wam.layout = replace(begun.wam.layout, probes=("video",))
    with pytest.raises(ValueError, match=r"never draws its video.*let the robot hold"):
        begun.observe(told(happened[0], under_way=1), under_way=1)
