# SPDX-License-Identifier: Apache-2.0
"""The masked pass and the cached rollout are the same function."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from lingbot_loops import drawn_chunks
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.lingbot_va import LingBotVA
from flashwam.wam.replay import ReplaySession

Draw = Callable[..., dict[str, Tensor]]
BATCH, CHUNKS, CHUNK = 2, 5, 2


@pytest.fixture
def inputs(make_wam: Callable[..., LingBotVA], draw: Draw) -> tuple[LingBotVA, dict[str, Tensor], ...]:
    """A model, clean and noisy tensors of five chunks, and levels; frame 0 of the noisy video is the observation."""
    wam = make_wam()
    clean, noisy = draw(wam, BATCH, CHUNKS * CHUNK, 1), draw(wam, BATCH, CHUNKS * CHUNK, 2)
    sigma = {stream: torch.rand(BATCH, CHUNKS * CHUNK, generator=torch.Generator().manual_seed(3)) for stream in noisy}
    for stream in noisy:
        noisy[stream][:, :, 0] = clean[stream][:, :, 0]
        sigma[stream][:, 0] = 0.0
    text = torch.randn(BATCH, 6, 12, generator=torch.Generator().manual_seed(4))
    return wam, clean, noisy, sigma, text


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 64])
def test_masked_pass_equals_cached_rollout(inputs: tuple, size: int, window: int) -> None:
    """Also where history is longer than the window, and with imagined tokens put in and dropped on the way."""
    wam, clean, noisy, sigma, text = inputs
    context = {"text": text, "window_chunks": window, "chunk_frames": size}
    with torch.no_grad():
        masked = wam.velocity(noisy, sigma, clean, context)
    session = wam.session(text, window_chunks=window, eviction="mask")
    for start in range(0, CHUNKS * CHUNK, size):
        at = slice(start, start + size)
        assert session.frame_index == start
        session.velocity({"action": noisy["action"][:, :, at]}, {"action": sigma["action"][:, at]})["action"]
        velocity = session.velocity({"video": noisy["video"][:, :, at]}, {"video": sigma["video"][:, at]})["video"]
        assert_close(velocity, masked["video"][:, :, at], atol=1e-5, rtol=1e-5)
        session.append("video", clean["video"][:, :, at], predicted=True)
        velocity = session.velocity({"action": noisy["action"][:, :, at]}, {"action": sigma["action"][:, at]})["action"]
        assert_close(velocity, masked["action"][:, :, at], atol=1e-5, rtol=1e-5)
        session.append("action", noisy["action"][:, :, at], predicted=True)
        session.drop_predicted()
        session.append("video", clean["video"][:, :, at], predicted=False)
        session.append("action", clean["action"][:, :, at], predicted=False)
        session.advance(size)


def test_noised_history_is_embedded_at_its_own_level(inputs: tuple) -> None:
    wam, clean, noisy, sigma, text = inputs
    level = {stream: torch.rand(BATCH, 4, generator=torch.Generator().manual_seed(5)) for stream in clean}
    clean, noisy = ({stream: x[:, :, :4] for stream, x in tensors.items()} for tensors in (clean, noisy))
    sigma = {stream: s[:, :4] for stream, s in sigma.items()}
    with torch.no_grad():
        masked = wam.velocity(noisy, sigma, clean, {"text": text, "clean_sigma": level})
        plain = wam.velocity(noisy, sigma, clean, {"text": text})
    session = wam.session(text)
    for stream in wam.streams:
        session.append(stream, clean[stream][:, :, :2], predicted=False, sigma=level[stream][:, :2])
    session.advance(2)
    velocity = session.velocity({"video": noisy["video"][:, :, 2:]}, {"video": sigma["video"][:, 2:]})["video"]
    assert_close(velocity, masked["video"][:, :, 2:], atol=1e-5, rtol=1e-5)
    assert (velocity - plain["video"][:, :, 2:]).abs().max() > 1e-3


@pytest.mark.parametrize("stream", ["video", "action"])
def test_one_stream_alone_equals_its_part_of_the_joint_pass(inputs: tuple, stream: str) -> None:
    wam, clean, noisy, sigma, text = inputs
    with torch.no_grad():
        joint = wam.velocity(noisy, sigma, clean, {"text": text})
        alone = wam.velocity({stream: noisy[stream]}, sigma, clean, {"text": text})
    assert list(alone) == [stream]
    assert_close(alone[stream], joint[stream], atol=1e-5, rtol=1e-5)


def test_what_may_be_seen(inputs: tuple) -> None:
    """Noisy tokens of chunk 1 against changes elsewhere: exactly the past and their own block matter."""
    wam, clean, noisy, sigma, text = inputs
    now = slice(CHUNK, 2 * CHUNK)

    def changed(kind: str, stream: str, chunk: int) -> set[str]:
        tensors = {"clean": dict(clean), "noisy": dict(noisy)}
        moved = tensors[kind][stream].clone()
        moved[:, :, chunk * CHUNK : (chunk + 1) * CHUNK] += 1.0
        tensors[kind][stream] = moved
        after = wam.velocity(tensors["noisy"], sigma, tensors["clean"], {"text": text})
        return {s for s in after if not torch.equal(after[s][:, :, now], before[s][:, :, now])}

    with torch.no_grad():
        before = wam.velocity(noisy, sigma, clean, {"text": text})
        assert changed("clean", "video", 0) == {"video", "action"}
        assert changed("clean", "action", 0) == {"video", "action"}
        assert changed("clean", "video", 1) == {"action"}
        assert changed("clean", "action", 1) == set()
        assert changed("clean", "video", 2) == set()
        assert changed("noisy", "video", 0) == set()
        assert changed("noisy", "video", 1) == {"video"}
        assert changed("noisy", "action", 1) == {"action"}


def test_guidance_is_the_line_through_both_velocities(inputs: tuple) -> None:
    wam, clean, noisy, sigma, text = inputs
    null_text = torch.zeros(6, 12)
    first, second = slice(0, CHUNK), slice(CHUNK, 2 * CHUNK)
    sessions = {
        "guided": wam.session(text, null_text=null_text, guidance={"video": 3.0}),
        "text": wam.session(text),
        "null": wam.session(null_text.expand(BATCH, -1, -1)),
    }
    velocity: dict[str, dict[str, Tensor]] = {}
    for name, session in sessions.items():
        for stream in wam.streams:
            session.append(stream, clean[stream][:, :, first], predicted=False)
        session.advance(CHUNK)
        velocity[name] = {
            s: session.velocity({s: noisy[s][:, :, second]}, {s: sigma[s][:, second]})[s] for s in wam.streams
        }
    expected = velocity["null"]["video"] + 3.0 * (velocity["text"]["video"] - velocity["null"]["video"])
    assert_close(velocity["guided"]["video"], expected, atol=1e-5, rtol=1e-5)
    assert_close(velocity["guided"]["action"], velocity["text"]["action"], atol=1e-5, rtol=1e-5)


def test_velocity_leaves_the_cache_alone(inputs: tuple) -> None:
    wam, clean, noisy, sigma, text = inputs
    session = wam.session(text)
    session.append("video", clean["video"][:, :, :CHUNK], predicted=True)
    call = ({"action": noisy["action"][:, :, :CHUNK]}, {"action": sigma["action"][:, :CHUNK]})
    once = session.velocity(*call)["action"]
    session.velocity({"action": clean["action"][:, :, :CHUNK]}, {"action": sigma["action"][:, :CHUNK]})
    assert torch.equal(session.velocity(*call)["action"], once)
    assert session.blocks == ((0, CHUNK * 4, True),)


def test_misuse_is_refused(inputs: tuple) -> None:
    wam, clean, _, _, text = inputs
    first = clean["video"][:, :, :CHUNK]
    session = wam.session(text)
    session.append("video", first, predicted=True)
    with pytest.raises(RuntimeError, match="drop_predicted"):
        session.append("video", first, predicted=False)
    session.drop_predicted()
    session.append("video", first, predicted=False)
    with pytest.raises(RuntimeError, match="advance"):
        session.append("video", first, predicted=False)
    with pytest.raises(ValueError, match="latent frames appended"):
        session.advance(CHUNK + 1)
    with pytest.raises(ValueError, match="lock-step"):
        session.velocity({"video": first[:1]}, {"video": torch.zeros(1, CHUNK)})["video"]
    with pytest.raises(ValueError, match="stream must be one of"):
        session.append("sound", first, predicted=True)
    with pytest.raises(ValueError, match="null_text"):
        wam.session(text, guidance={"video": 2.0})
    with pytest.raises(ValueError, match="unknown streams"):
        wam.session(text, guidance={"sound": 2.0})


@pytest.mark.parametrize("frames", [2, 4])
def test_last_noisy_frames_alone_equal_their_part_of_the_whole_pass(inputs: tuple, frames: int) -> None:
    wam, clean, noisy, sigma, text = inputs
    last = {stream: x[:, :, -frames:] for stream, x in noisy.items()}
    with torch.no_grad():
        whole = wam.velocity(noisy, sigma, clean, {"text": text})
        alone = wam.velocity(last, {name: s[:, -frames:] for name, s in sigma.items()}, clean, {"text": text})
    for stream in wam.streams:
        assert_close(alone[stream], whole[stream][:, :, -frames:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [None, {"video": 2.0}])
def test_replay_equals_the_cache(inputs: tuple, guidance: dict[str, float] | None) -> None:
    wam, clean, noisy, sigma, text = inputs
    null_text = torch.randn(6, 12, generator=torch.Generator().manual_seed(6))
    sessions = [
        make(text, null_text=null_text, guidance=guidance) for make in (wam.session, partial(ReplaySession, wam))
    ]
    for start in range(0, 6, CHUNK):
        at = slice(start, start + CHUNK)
        for stream in wam.streams:
            cached, replayed = (
                s.velocity({stream: noisy[stream][:, :, at]}, {stream: sigma[stream][:, at]})[stream] for s in sessions
            )
            assert_close(replayed, cached, atol=1e-5, rtol=1e-5)
            for session in sessions:
                session.append(stream, noisy[stream][:, :, at], predicted=True)
        for session in sessions:
            session.drop_predicted()
            for stream in wam.streams:
                session.append(stream, clean[stream][:, :, at], predicted=False)
            session.advance(CHUNK)
            assert session.frame_index == start + CHUNK


def test_replay_refuses_a_chunk_without_every_stream(inputs: tuple) -> None:
    wam, clean, _, _, text = inputs
    session = ReplaySession(wam, text)
    session.append("video", clean["video"][:, :, :CHUNK], predicted=False)
    with pytest.raises(RuntimeError, match="appended already"):
        session.append("video", clean["video"][:, :, :CHUNK], predicted=False)
    with pytest.raises(ValueError, match="observed frames"):
        session.advance(CHUNK)


@pytest.mark.parametrize(
    "guidance", [None, {"video": 3.0}, {"action": 2.0}, {"video": 3.0, "action": 2.0}], ids=["none", "v", "a", "va"]
)
@pytest.mark.parametrize("steps", [(1, 1), (3, 2)])
@pytest.mark.parametrize("window", [1, 3, 64])
def test_fused_rollout_equals_the_unfused_one(inputs: tuple, guidance: dict, steps: tuple, window: int) -> None:
    """Every chunk, the first and those after eviction; one pass a step, and none whose output nobody reads."""
    wam, clean, _, _, text = inputs
    null_text = torch.randn(6, 12, generator=torch.Generator().manual_seed(6))
    passes = {True: 0, False: 0}
    drawn = {}
    for fused in passes:
        session = wam.session(text, null_text=null_text, guidance=guidance, window_chunks=window, fused=fused)
        original = wam.transformer.cached_pass

        def counted(*args: object, fused: bool = fused, run: object = original, **kwargs: object) -> Tensor | None:
            passes[fused] += 1
            return run(*args, **kwargs)

        wam.transformer.cached_pass = counted
        counts = dict(zip(wam.streams, steps, strict=True))
        drawn[fused] = drawn_chunks(session, clean, counts, chunk=CHUNK, chunks=CHUNKS)
        del wam.transformer.cached_pass
    for one, other in zip(drawn[True], drawn[False], strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert passes[False] == CHUNKS * (sum(steps) + 1 + 2)
    # Observed tokens need both halves of a guided cache; a first pass of one half only cannot carry them.
    alone = CHUNKS - 1 if guidance == {"action": 2.0} else 0
    assert passes[True] == CHUNKS * sum(steps) + alone


@pytest.mark.parametrize("guidance", [None, {"video": 3.0}])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("window", [1, 2, 3, 64])
def test_cache_of_fixed_shapes_equals_the_growing_one(inputs: tuple, guidance: dict, fused: bool, window: int) -> None:
    wam, clean, _, _, text = inputs
    null_text = torch.randn(6, 12, generator=torch.Generator().manual_seed(6))
    options = {"null_text": null_text, "guidance": guidance, "window_chunks": window, "fused": fused}
    one, other = (
        drawn_chunks(
            wam.session(text, static=static, **options), clean, {"video": 2, "action": 1}, chunk=CHUNK, chunks=CHUNKS
        )
        for static in (True, False)
    )
    for a, b in zip(one, other, strict=True):
        assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_fixed_shapes_refuse_what_does_not_fit(inputs: tuple) -> None:
    wam, clean, _, _, text = inputs
    session = wam.session(text, static=True)
    short = wam.session(text, static=True, window_chunks=1)
    frames = clean["video"].shape[2]
    short.append("video", clean["video"], predicted=True)
    with pytest.raises(ValueError, match=f"do not fit a ring of {3 * CHUNK * 8} .* one at a time"):
        short.velocity({"action": clean["action"]}, {"action": torch.ones(BATCH, frames)})
    session.append("video", clean["video"][:, :, :CHUNK], predicted=True)
    session.velocity({"action": clean["action"][:, :, :CHUNK]}, {"action": torch.ones(BATCH, CHUNK)})["action"]
    with pytest.raises(RuntimeError, match="drop_predicted"):
        session.velocity({"video": clean["video"][:, :, :CHUNK]}, {"video": torch.ones(BATCH, CHUNK)})["video"]


@pytest.mark.parametrize("guidance", [None, {"video": 3.0}, {"action": 2.0}])
def test_imagined_past_that_is_kept(inputs: tuple, guidance: dict | None) -> None:
    """Open loop: predictions stay, also where a guided stream then needs rows that an unguided one did not write."""
    wam, clean, _, _, text = inputs
    null_text = torch.randn(6, 12, generator=torch.Generator().manual_seed(6))
    drawn = {}
    for fused in (True, False):
        session = wam.session(text, null_text=null_text, guidance=guidance, fused=fused)
        drawn[fused] = []
        for start in range(0, 6, CHUNK):
            for stream in wam.streams:
                x = clean[stream][:, :, start : start + CHUNK]
                drawn[fused].append(session.velocity({stream: x}, {stream: torch.full((BATCH, CHUNK), 0.5)})[stream])
                session.append(stream, x, predicted=True)
            session.advance(CHUNK)
        assert [block[::2] for block in session.blocks] == [(i, True) for i in range(1, 6)]
    for one, other in zip(drawn[True], drawn[False], strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-5)
