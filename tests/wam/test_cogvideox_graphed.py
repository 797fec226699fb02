# SPDX-License-Identifier: Apache-2.0
"""The second family's passes, recorded and replayed."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.cogvideox.graphed import RecordedNetwork
from flashwam.wam.recording import CallRecorder

TEXT = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(2))
NULL = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))


def draw(wam: CogVideoX, text: Tensor, *, seed: int, **session: object) -> list[Tensor]:
    """Velocities of two chunks; the streams' levels are the same in one and differ in the other."""
    generator = torch.Generator().manual_seed(seed)
    opened = wam.session(text, **session)
    drawn = []
    for _ in range(2):
        for name, (c, h, w) in wam.shapes.items():
            opened.append(name, torch.randn(2, c, 1, h, w, generator=generator), predicted=False)
        opened.advance(1)
        for levels in ((0.7, 0.7), (0.4, 0.9)):
            noisy = {name: torch.randn(2, c, 3, h, w, generator=generator) for name, (c, h, w) in wam.shapes.items()}
            sigma = {name: torch.full((2, 3), level) for name, level in zip(noisy, levels, strict=True)}
            drawn += opened.velocity(noisy, sigma).values()
    return drawn


@pytest.mark.parametrize("guidance", [None, {"video": 3.0, "action": 2.0}], ids=["plain", "guided"])
@pytest.mark.parametrize("conditioning", ["channel_concat", "prefix"])
def test_replays_give_what_computed_passes_give_and_nothing_is_recorded_twice(
    make_cogvideox: Callable[..., CogVideoX], conditioning: str, guidance: dict[str, float] | None
) -> None:
    plain = make_cogvideox(conditioning=conditioning)
    wam = deepcopy(plain)
    wam.choose_rollout("graphed")
    wam.recorded = RecordedNetwork(CallRecorder(), compiled=False)
    options = {"guidance": guidance, "null_text": NULL}
    draw(wam, TEXT, seed=1, **options)
    recorded = wam.recorded.recordings.count
    for seed, text in ((2, TEXT.flip(1)), (3, TEXT)):
        for one, other in zip(
            draw(wam, text, seed=seed, **options), draw(plain, text, seed=seed, **options), strict=True
        ):
            assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert wam.recorded.recordings.count == recorded == 1, "one kind of pass, whether the streams' levels are the same"


def test_a_copy_and_weights_that_move_are_recorded_anew(make_cogvideox: Callable[..., CogVideoX]) -> None:
    wam = make_cogvideox(rollout="graphed")
    wam.recorded = RecordedNetwork(CallRecorder(), compiled=False)
    draw(wam, TEXT, seed=1)
    copied = deepcopy(wam)
    wam.double().float()
    with torch.no_grad():
        for p in wam.parameters():
            p.mul_(0.9)
    plain = deepcopy(wam)
    plain.choose_rollout("dynamic")
    assert_close(draw(wam, TEXT, seed=2), draw(plain, TEXT, seed=2), atol=1e-5, rtol=1e-5)
    assert wam.recorded.recordings.count == 2
    assert copied.recorded.recordings.count == 0


def test_recorded_blocks_are_compiled_once_for_all_layers_and_models(
    make_cogvideox: Callable[..., CogVideoX], caplog: pytest.LogCaptureFixture
) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    torch.compiler.reset()
    plain = make_cogvideox(num_layers=3)
    expected = draw(plain, TEXT, seed=1)
    for _ in range(2):
        wam = deepcopy(plain)
        wam.choose_rollout("graphed")
        wam.recorded = RecordedNetwork(CallRecorder(), backend=backend)
        assert_close(draw(wam, TEXT, seed=1), expected, atol=1e-5, rtol=1e-5)
        assert_close(draw(wam, TEXT, seed=1), expected, atol=1e-5, rtol=1e-5)
        assert wam.recorded.recordings.count == 1
    assert len(compiled) == 1
    assert "runs without graphs" not in caplog.text


def test_blocks_that_cannot_be_compiled_are_recorded_as_they_are(
    make_cogvideox: Callable[..., CogVideoX], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Tensor]:
        raise RuntimeError("no compiler here")

    torch.compiler.reset()
    wam, plain = make_cogvideox(rollout="graphed"), make_cogvideox()
    wam.recorded = RecordedNetwork(CallRecorder(), backend=broken)
    assert_close(draw(wam, TEXT, seed=1), draw(plain, TEXT, seed=1), atol=1e-5, rtol=1e-5)
    assert wam.recorded.recordings.count == 1
    assert "blocks are recorded as they are, not compiled" in caplog.text


def test_a_recorded_pass_waits_for_no_level(
    make_cogvideox: Callable[..., CogVideoX], caplog: pytest.LogCaptureFixture
) -> None:
    """On a device whose numbers cannot be read back."""
    wam = make_cogvideox(rollout="graphed").to("meta")
    wam.recorded = RecordedNetwork(CallRecorder(), compiled=False)
    session = wam.session(TEXT.to("meta"))
    shapes = wam.shapes.items()
    for name, (c, h, w) in shapes:
        session.append(name, torch.empty(2, c, 1, h, w, device="meta"), predicted=False)
    session.advance(1)
    noisy = {name: torch.empty(2, c, 3, h, w, device="meta") for name, (c, h, w) in shapes}
    sigma = {name: torch.empty(2, 3, device="meta") for name in noisy}
    for _ in range(2):
        assert {name: x.shape for name, x in session.velocity(noisy, sigma).items()} == {
            name: x.shape for name, x in noisy.items()
        }
    assert wam.recorded.recordings.count == 1
    assert not caplog.records


def test_a_model_on_a_cpu_runs_without_graphs_and_says_so(
    make_cogvideox: Callable[..., CogVideoX], caplog: pytest.LogCaptureFixture
) -> None:
    plain = make_cogvideox()
    assert_close(draw(make_cogvideox(rollout="graphed"), TEXT, seed=1), draw(plain, TEXT, seed=1))
    assert "CUDA graphs need a GPU, and the model is on cpu" in caplog.text


def test_an_unknown_rollout_is_refused(make_cogvideox: Callable[..., CogVideoX]) -> None:
    with pytest.raises(ValueError, match="rollout must be one of dynamic, graphed; got 'static'"):
        make_cogvideox(rollout="static")
