# SPDX-License-Identifier: Apache-2.0
"""A rollout session against the model's own passes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flashwam.wam import RolloutSession
from flashwam.wam.cogvideox import CogVideoX

Make = Callable[..., CogVideoX]


@pytest.fixture
def text() -> Tensor:
    return torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(2))


def draw(wam: CogVideoX, frames: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, c, frames, *size, generator=generator) for name, (c, *size) in wam.shapes.items()}


def observe(session: RolloutSession, episode: dict[str, Tensor], frames: slice) -> None:
    for name, x in episode.items():
        session.append(name, x[:, :, frames], predicted=False)
    session.advance(frames.stop - frames.start)


def levels() -> dict[str, Tensor]:
    return {name: torch.tensor([[0.5], [0.9]]).repeat(1, 3) for name in ("video", "action")}


def test_chunks_are_drawn_from_the_last_frame_that_was_seen(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox()
    episode, noisy = draw(wam, 6, 1), draw(wam, 3, 2)
    session = wam.session(text)
    with pytest.raises(RuntimeError, match="begins with the observation"):
        session.velocity(noisy, levels())
    observe(session, episode, slice(0, 1))
    for start, frames in ((0, 2), (2, 1), (3, 2)):
        assert session.frame_index == start
        clean = {name: x[:, :, start : start + 3] for name, x in episode.items()}
        if clean["video"].shape[2] < 3:
            clean = {name: torch.cat([x, x], 2)[:, :, :3] for name, x in clean.items()}
        expected = wam.velocity(noisy, levels(), clean, {"text": text})
        for _ in range(2):
            got = session.velocity(noisy, levels())
            assert all(torch.equal(got[name], expected[name]) for name in wam.streams)
        observe(session, episode, slice(start + 1, start + 1 + frames))


@pytest.mark.parametrize("scales", [{"video": 3.0, "action": 1.5}, {"video": 3.0}])
def test_guidance_of_every_stream(make_cogvideox: Make, text: Tensor, scales: dict[str, float]) -> None:
    wam = make_cogvideox()
    null = torch.zeros(6, 12)
    first, noisy = draw(wam, 3, 1), draw(wam, 3, 2)
    session = wam.session(text, null_text=null, guidance=scales)
    observe(session, first, slice(0, 1))
    got = session.velocity(noisy, levels())
    with torch.no_grad():
        with_text, without = (wam.velocity(noisy, levels(), first, {"text": t}) for t in (text, null.expand_as(text)))
    for name in wam.streams:
        expected = without[name] + scales.get(name, 1.0) * (with_text[name] - without[name])
        torch.testing.assert_close(got[name], expected, atol=1e-5, rtol=1e-5)


def test_what_was_predicted_is_forgotten(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox()
    first, imagined, noisy = (draw(wam, 3, seed) for seed in range(3))
    session = wam.session(text)
    observe(session, first, slice(0, 1))
    before = session.velocity(noisy, levels())["video"]
    for name in wam.streams:
        session.append(name, imagined[name], predicted=True)
    session.drop_predicted()
    assert torch.equal(session.velocity(noisy, levels())["video"], before)
    observe(session, imagined, slice(1, 3))
    assert not torch.equal(session.velocity(noisy, levels())["video"], before)


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
