# SPDX-License-Identifier: Apache-2.0
"""A rollout session against the model's own passes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flashwam.wam.cogvideox import CogVideoX

Make = Callable[..., CogVideoX]


@pytest.fixture
def text() -> Tensor:
    return torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(2))


def draw(wam: CogVideoX, frames: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, c, frames, *size, generator=generator) for name, (c, *size) in wam.shapes.items()}


def levels() -> dict[str, Tensor]:
    return {name: torch.tensor([[0.5], [0.9]]).repeat(1, 3) for name in ("video", "action")}


def test_chunks_are_drawn_from_the_last_frame_that_was_seen(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox()
    episode, noisy = draw(wam, 6, 1), draw(wam, 3, 2)
    session = wam.session(text)
    with pytest.raises(RuntimeError, match="nothing was observed"):
        session.velocity(noisy, levels())
    session.append("video", episode["video"][:, :, :1], predicted=False)
    session.append("action", episode["action"][:, :, :1], predicted=False)
    for start, frames in ((0, 2), (2, 1), (3, 2)):
        assert session.frame_index == start
        clean = {name: x[:, :, start : start + 3] for name, x in episode.items()}
        if clean["video"].shape[2] < 3:
            clean = {name: torch.cat([x, x], 2)[:, :, :3] for name, x in clean.items()}
        expected = wam.velocity(noisy, levels(), clean, {"text": text})
        for _ in range(2):
            got = session.velocity(noisy, levels())
            assert all(torch.equal(got[name], expected[name]) for name in wam.streams)
        for name in wam.streams:
            session.append(name, episode[name][:, :, start + 1 : start + 1 + frames], predicted=False)
        session.advance(frames)


@pytest.mark.parametrize("scales", [{"video": 3.0, "action": 1.5}, {"video": 3.0}])
def test_guidance_of_every_stream(make_cogvideox: Make, text: Tensor, scales: dict[str, float]) -> None:
    wam = make_cogvideox()
    null = torch.zeros(6, 12)
    first, noisy = draw(wam, 3, 1), draw(wam, 3, 2)
    session = wam.session(text, null_text=null, guidance=scales)
    session.append("video", first["video"][:, :, :1], predicted=False)
    got = session.velocity(noisy, levels())
    with torch.no_grad():
        with_text, without = (wam.velocity(noisy, levels(), first, {"text": t}) for t in (text, null.expand_as(text)))
    for name in wam.streams:
        expected = without[name] + scales.get(name, 1.0) * (with_text[name] - without[name])
        torch.testing.assert_close(got[name], expected, atol=1e-5, rtol=1e-5)


def test_predicted_video_leads_on_only_where_nothing_was_seen(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox()
    first, imagined, seen, noisy = (draw(wam, 3, seed) for seed in range(4))

    def after(*, predicted: bool, dropped: bool, observed: bool) -> Tensor:
        session = wam.session(text)
        session.append("video", first["video"][:, :, :1], predicted=False)
        session.velocity(noisy, levels())
        if predicted:
            session.append("video", imagined["video"], predicted=True)
        if dropped:
            session.drop_predicted()
        if observed:
            session.append("video", seen["video"], predicted=False)
        session.advance(2)
        return session.velocity(noisy, levels())["video"]

    true = after(predicted=False, dropped=False, observed=True)
    assert torch.equal(after(predicted=True, dropped=True, observed=True), true)
    assert torch.equal(after(predicted=True, dropped=False, observed=True), true)
    dreamt = after(predicted=True, dropped=False, observed=False)
    assert not torch.equal(dreamt, true)
    with pytest.raises(ValueError, match="needs video of this chunk"):
        after(predicted=True, dropped=True, observed=False)


def test_what_does_not_fit_is_refused(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox()
    with pytest.raises(ValueError, match="unknown streams"):
        wam.session(text, guidance={"sound": 1.0})
    with pytest.raises(ValueError, match="needs null_text"):
        wam.session(text, guidance={"video": 2.0})
    with pytest.raises(ValueError, match="null_text must be"):
        wam.session(text, null_text=torch.zeros(5, 12), guidance={"video": 2.0})
    session = wam.session(text)
    with pytest.raises(ValueError, match="stream must be one of"):
        session.append("sound", torch.zeros(2, 1, 1, 1, 1), predicted=False)
    with pytest.raises(ValueError, match=r"video must be \[2, 4, frames, 4, 6\]"):
        session.append("video", torch.zeros(2, 4, 1, 4, 4), predicted=False)
    with pytest.raises(ValueError, match="at least one frame"):
        session.advance(0)
