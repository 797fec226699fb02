# SPDX-License-Identifier: Apache-2.0
"""Pictures are encoded alike whether the encoder runs as it is, compiled or from recordings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import tiny_video_autoencoder
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.cogvideox.vae import CogVideoXVae
from flashwam.wam.encoder_passes import EncoderPasses
from flashwam.wam.lingbot_va.vae import WanVae
from flashwam.wam.recording import CallRecorder, Recording

SMALL = {"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
"""Of the released layout."""
PICTURES = torch.rand(2, 3, 17, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def wan() -> WanVae:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WanVae.blank(dtype=torch.float32, device="cpu", **SMALL)


@pytest.fixture
def uncompiled() -> Any:
    """Nothing is compiled: that is another test's."""
    with torch.compiler.set_stance("force_eager"):
        yield


def streamed(vae: WanVae) -> Tensor:
    """An episode as a robot sends it: one picture, then four or eight."""
    stream = vae.open()
    return torch.cat([stream.encode(part) for part in PICTURES.split([1, 4, 8, 4], 2)], 2)


def test_a_compiled_encoder_gives_one_clips_latents_and_is_compiled_once(wan: WanVae) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    wan.choose_encoder("plain")
    expected = wan.encode(PICTURES)
    wan.choose_encoder("compiled", backend=backend)
    for _ in range(2):
        assert_close(streamed(wan), expected, atol=1e-5, rtol=1e-5)
    assert len(compiled) == 1


def test_recorded_passes_keep_the_pasts_of_episodes_apart(wan: WanVae, uncompiled: None) -> None:
    wan.choose_encoder("graphed", recorder=CallRecorder())
    parts = PICTURES.split([1, 4, 4, 4, 4], 2)
    streams, found = [wan.open(), wan.open()], [[], []]
    for part in parts:
        for stream, pictures, latents in zip(streams, (part, part.flip(-1)), found, strict=True):
            latents.append(stream.encode(pictures))
    assert wan.passes.recorded == 1
    again = streams[0].fork()
    assert_close(streams[0].encode(parts[1]), again.encode(parts[1]))
    wan.choose_encoder("plain")
    for latents, pictures in zip(found, (PICTURES, PICTURES.flip(-1)), strict=True):
        assert_close(torch.cat(latents, 2), wan.encode(pictures), atol=1e-5, rtol=1e-5)


def test_single_pictures_are_recorded_once_however_many_come_at_once(uncompiled: None) -> None:
    vae = CogVideoXVae(tiny_video_autoencoder())
    expected = vae.encode_alone(PICTURES[:1])
    vae.choose_encoder("graphed", recorder=CallRecorder())
    vae.passes.begin()
    found = [vae.encode_alone(part) for part in PICTURES[:1].split([1, 3, 13], 2)]
    assert_close(torch.cat(found, 2), expected, atol=1e-5, rtol=1e-5)
    assert vae.passes.recorded == 1


def test_what_was_recorded_is_replayed_after_something_else_could_not_be(uncompiled: None) -> None:
    class Once(CallRecorder):
        made = 0

        def record(self, work: Callable[[], Any]) -> Recording:
            if self.made:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.made += 1
            return super().record(work)

    called = []

    def encode(x: Tensor) -> Tensor:
        called.append(x.shape[0])
        return 2 * model(x)

    model = torch.nn.Linear(3, 3)
    passes = EncoderPasses(model, encode, "graphed", recorder=Once())
    one, two = torch.randn(1, 3), torch.randn(2, 3)
    with torch.no_grad():
        for x in (one, two):
            passes.begin()
            assert_close(passes(x), encode(x))
        called.clear()
        passes.begin()
        again = torch.randn(1, 3)
        found = passes(again)
        assert not called, "it was replayed"
        assert_close(found, encode(again))
        assert_close(passes(two), encode(two))
    assert passes.recorded == 1


def test_what_cannot_be_compiled_or_recorded_is_encoded_all_the_same_and_says_why(
    wan: WanVae, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("no compiler here")

    class Refusing(CallRecorder):
        def record(self, work: Callable[[], Any]) -> None:
            work()
            raise RuntimeError("not permitted when stream is capturing")

    wan.choose_encoder("plain")
    expected = streamed(wan)
    for options in ({"backend": broken}, {"backend": broken, "recorder": Refusing()}, {}):
        way = "graphed" if options.keys() != {"backend"} else "compiled"
        wan.choose_encoder(way, **options)
        assert_close(streamed(wan), expected)
    assert "encoder 'compiled': it runs as it is, not compiled" in caplog.text
    assert "no compiler here" in caplog.text
    assert "encoder 'graphed': it runs without graphs, since a pass could not be recorded" in caplog.text
    assert "not permitted when stream is capturing" in caplog.text
    assert "CUDA graphs need a GPU, and the model is on cpu" in caplog.text


def test_a_moment_without_memory_does_not_end_compiling(wan: WanVae) -> None:
    lacking = [True]

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            if lacking:
                lacking.pop()
                raise torch.OutOfMemoryError("out of memory")
            compiled.append(graph)
            return graph(*inputs)

        return run

    compiled: list[torch.fx.GraphModule] = []
    wan.choose_encoder("plain")
    expected = streamed(wan)
    wan.choose_encoder("compiled", backend=backend)
    with pytest.raises(torch.OutOfMemoryError):
        streamed(wan)
    assert_close(streamed(wan), expected, atol=1e-5, rtol=1e-5)
    assert compiled


def test_another_way_is_refused(wan: WanVae) -> None:
    with pytest.raises(ValueError, match="encoder must be one of plain, compiled, graphed; got 'fast'"):
        wan.choose_encoder("fast")
