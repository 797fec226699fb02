# SPDX-License-Identifier: Apache-2.0
"""Guidance without idle tokens, and passes that share their clean tokens, against plain passes over everything."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.guidance import guided_velocity
from flashwam.wam.lingbot_va import LingBotVA, flex, masks
from flashwam.wam.session import Kept

Draw = Callable[..., dict[str, Tensor]]
Make = Callable[..., LingBotVA]
FRAMES, ROWS = 7, 2
NULL = torch.linspace(-1, 1, 72).reshape(6, 12)
SUBSETS = [(), ("video",), ("action",), ("video", "action")]


def some(parts: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    return {name: parts[name] for name in names}


@pytest.fixture
def given(make_wam: Make, draw: Draw) -> tuple:
    """A model, its noisy states, their levels, clean tokens and text."""
    wam = make_wam()
    generator = torch.Generator().manual_seed(3)
    sigma = {name: torch.rand(ROWS, FRAMES, generator=generator) for name in wam.streams}
    text = torch.randn(ROWS, 6, 12, generator=generator)
    return wam, draw(wam, ROWS, FRAMES, 1), sigma, draw(wam, ROWS, FRAMES, 2), text


def by_hand(wam: LingBotVA, noisy: dict, sigma: dict, clean: dict, text: Tensor, scales: dict) -> dict[str, Tensor]:
    """Two whole passes and the formula."""
    with_text = wam(noisy, sigma, clean, {"text": text})
    without = wam(noisy, sigma, clean, {"text": NULL.expand_as(text)})
    return {name: without[name] + scales.get(name, 1.0) * (with_text[name] - without[name]) for name in with_text}


@torch.no_grad()
@pytest.mark.parametrize("together", [None, True])
@pytest.mark.parametrize("guided", SUBSETS)
def test_guidance_equals_two_whole_passes(given: tuple, guided: tuple[str, ...], together: bool | None) -> None:
    wam, noisy, sigma, clean, text = given
    scales = {name: 3.0 + k for k, name in enumerate(guided)}
    got = guided_velocity(wam, noisy, sigma, clean, text=text, null_text=NULL, scales=scales, together=together)
    expected = by_hand(*given, scales)
    for name in wam.streams:
        assert_close(got[name], expected[name], rtol=1e-6, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("guided", SUBSETS)
def test_guidance_equals_a_session(given: tuple, guided: tuple[str, ...]) -> None:
    """The last chunk of a rollout that has seen the chunks before."""
    wam, noisy, sigma, clean, text = given
    scales = dict.fromkeys(guided, 3.0)
    chunk, length = FRAMES // 2 - 1, wam.chunk_frames
    noisy, sigma = (
        {n: x.narrow(dim, 0, FRAMES - 1) for n, x in part.items()} for part, dim in ((noisy, 2), (sigma, 1))
    )
    clean = {name: x[:, :, : FRAMES - 1] for name, x in clean.items()}
    got = guided_velocity(wam, noisy, sigma, clean, text=text, null_text=NULL, scales=scales)
    session = wam.session(text, null_text=NULL, guidance=scales)
    for begin in range(0, chunk * length, length):
        for name in wam.streams:
            session.append(name, clean[name][:, :, begin : begin + length], predicted=False)
        session.advance(length)
    last = slice(chunk * length, None)
    for name in wam.streams:
        expected = session.velocity({name: noisy[name][:, :, last]}, {name: sigma[name][:, last]})[name]
        assert_close(got[name][:, :, last], expected, rtol=1e-5, atol=1e-5)
        session.append(name, clean[name][:, :, last], predicted=True)


def test_the_unconditional_pass_has_the_guided_streams_tokens_alone(
    given: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    wam, noisy, sigma, clean, text = given
    seen = []
    plain = wam.velocity
    monkeypatch.setattr(
        wam, "velocity", lambda *parts: seen.append((set(parts[0]), len(parts[3]["text"]))) or plain(*parts)
    )
    guided_velocity(wam, noisy, sigma, clean, text=text, null_text=NULL, scales={"video": 2.0, "action": 1.0})
    assert seen == [({"video", "action"}, ROWS), ({"video"}, ROWS)]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("backend", ["sdpa", "flex"])
@pytest.mark.parametrize("window", [1, 5])
@pytest.mark.parametrize("together", [False, True])
def test_kept_passes_equal_plain_ones(
    given: tuple, draw: Draw, monkeypatch: pytest.MonkeyPatch, backend: str, window: int, together: bool
) -> None:
    """Several noise levels under the same clean tokens, with streams that leave and come back."""
    wam, _, _, clean, text = given
    monkeypatch.setattr(flex, "compiled", lambda function, **options: function)
    masks.teacher_forced_layout.cache_clear()
    wam.transformer.set_attention(backend)
    levels = {"clean_sigma": {name: torch.full((ROWS, FRAMES), 0.2) for name in clean}, "window_chunks": window}
    kept: dict[str, Kept] = {}

    def model(noisy: dict, sigma: dict, clean: dict, context: dict) -> dict[str, Tensor]:
        rows = len(context["text"]) // ROWS
        own = {name: level.repeat(rows, 1) for name, level in levels["clean_sigma"].items()}
        return wam(noisy, sigma, clean, context | levels | {"clean_sigma": own})

    tokens = []
    wam.transformer.blocks[0].register_forward_hook(lambda block, inputs, out: tokens.append(out.shape[1]))
    asked = [("video",), ("video", "action"), ("action",), ("video",), ("video", "action")]
    for step, names in enumerate(asked):
        noisy = some(draw(wam, ROWS, FRAMES, step), names)
        sigma = {name: torch.full((ROWS, FRAMES), 0.9 - 0.2 * step) for name in names}
        options = {"text": text, "null_text": NULL, "scales": {"video": 2.5}}
        expected = guided_velocity(model, noisy, sigma, clean, **options)
        tokens.clear()
        got = guided_velocity(model, noisy, sigma, clean, kept=kept, together=together, **options)
        for name in names:
            assert_close(got[name], expected[name], rtol=1e-6, atol=1e-5)
        own = sum(FRAMES * wam.transformer.tokens_per_frame(name, clean[name]) for name in names)
        # One forward of both prompts keeps its own, and nobody guides actions alone.
        assert (tokens[0] == own) == (step >= 2 and not (together and names == ("action",)))


def test_what_is_kept_takes_no_gradient(given: tuple) -> None:
    wam, noisy, sigma, clean, text = given
    with pytest.raises(RuntimeError, match="no gradient"):
        wam(noisy, sigma, clean, {"text": text, "kept": Kept()})
    kept = Kept()
    with torch.no_grad():
        first = wam(noisy, sigma, clean, {"text": text, "kept": kept})
        again = wam(noisy, sigma, clean, {"text": text, "kept": kept})
    for name in noisy:
        assert_close(again[name], first[name], rtol=1e-6, atol=1e-5)
        assert not again[name].requires_grad
