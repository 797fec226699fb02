# SPDX-License-Identifier: Apache-2.0
"""A rollout in 8-bit numbers: the same by every way of computing it, and clear where it cannot be."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lingbot_loops import drawn_chunks
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from flashwam.core.float8 import FLOAT8
from flashwam.core.streams import StreamSpec
from flashwam.student import save_wam
from flashwam.wam import rounded_linear
from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.cogvideox.graphed import RecordedNetwork
from flashwam.wam.lingbot_va import LingBotVA
from flashwam.wam.lingbot_va.graphed import Lanes
from flashwam.wam.recording import CallRecorder
from flashwam.wam.rounded_linear import Float8Linear, check_float8, round_layers

Draw = Callable[..., dict[str, Tensor]]
TEXT = torch.randn(1, 6, 12, generator=torch.Generator().manual_seed(4))
NULL = torch.randn(6, 12, generator=torch.Generator().manual_seed(6))
STEPS, CHUNK, CHUNKS = {"video": 1, "action": 2}, 2, 5
WIDE = {"attention_head_dim": 32, "num_layers": 2}
"""All sides of the blocks' layers are multiples of 16."""
LAYERS = 10
"""Of a block: four for each attention, and two."""


def rounded(model: nn.Module) -> list[Float8Linear]:
    return [module for module in model.modules() if isinstance(module, Float8Linear)]


@pytest.fixture
def plain(make_wam: Callable[..., LingBotVA]) -> LingBotVA:
    return make_wam(window_chunks=5, **WIDE).eval().requires_grad_(False)


@pytest.fixture
def wam(plain: LingBotVA) -> LingBotVA:
    made = deepcopy(plain)
    made.choose_precision("fp8")
    return made


def chunks(wam: LingBotVA, seen: dict[str, Tensor], **session: object) -> list[Tensor]:
    opened = wam.session(TEXT, null_text=NULL, guidance={"video": 2.0}, **session)
    return drawn_chunks(opened, seen, STEPS, chunk=CHUNK, chunks=CHUNKS)


def assert_same(drawn: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(drawn, expected, strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_layer_multiplies_rounded_rows_with_rounded_rows() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 48), torch.randn(2, 5, 32)
    layer = Float8Linear(linear)

    def back(rows: Tensor) -> Tensor:
        scale = rows.abs().amax(-1, keepdim=True) / 448
        return (rows / scale).to(FLOAT8).float() * scale

    by_hand = back(x) @ back(linear.weight).T + linear.bias.bfloat16().float()
    made = layer(x)
    assert made.dtype == x.dtype
    # Rounded to 8 bits of fraction before and after the bias.
    assert_close(made, by_hand, atol=2**-8, rtol=2**-7)
    assert 0 < (made - linear(x)).std() < 0.05 * linear(x).std()
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_the_blocks_layers_alone_are_rounded(wam: LingBotVA, plain: LingBotVA) -> None:
    assert len(rounded(wam.transformer.blocks)) == len(rounded(wam)) == 2 * LAYERS
    assert (wam.precision, plain.precision) == ("fp8", "own")
    assert wam.deployed_parameters() == plain.deployed_parameters()
    wam.choose_precision("fp8")


def test_a_recorded_rollout_draws_what_a_plain_one_draws(wam: LingBotVA, plain: LingBotVA, draw: Draw) -> None:
    seen = draw(wam, 1, CHUNKS * CHUNK, 1)
    expected = chunks(wam, seen)
    wam.choose_rollout("graphed")
    wam.lanes = Lanes(CallRecorder(), compiled=False)
    assert_same(chunks(wam, seen), expected)
    recorded = wam.lanes.recorded
    assert_same(chunks(wam, seen), expected)
    assert wam.lanes.recorded == recorded > 0
    far = max(float((one - other).abs().max()) for one, other in zip(expected, chunks(plain, seen), strict=True))
    assert 1e-3 < far < 1, "it is rounded, and not another model"


def test_compiled_blocks_take_rounded_layers_and_are_compiled_once(
    make_wam: Callable[..., LingBotVA], draw: Draw
) -> None:
    wam = make_wam(**{**WIDE, "num_layers": 1}).eval().requires_grad_(False)
    wam.choose_precision("fp8")
    seen, compiled = draw(wam, 1, CHUNK, 1), []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    def drawn() -> list[Tensor]:
        return drawn_chunks(wam.session(TEXT), seen, {"video": 1, "action": 1}, chunk=CHUNK, chunks=1)

    expected = drawn()
    torch.compiler.reset()
    wam.choose_rollout("graphed")
    wam.lanes = Lanes(CallRecorder(), backend=backend)
    assert_same(drawn(), expected)
    # As of unrounded ones: two functions for the video, and two for the actions with what was drawn.
    assert len(compiled) == 4
    assert_same(drawn(), expected)
    assert len(compiled) == 4


def test_a_gpu_is_asked_for_one_product_without_scales(wam: LingBotVA) -> None:
    """Without values, torch checks the product's sizes, layouts and scales as it does on a GPU."""
    layer = rounded(wam.to("meta"))[0]
    x = torch.empty(2, 5, 64, dtype=torch.bfloat16, device="meta")
    asked: list[tuple[object, ...]] = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if call is torch.ops.aten._scaled_mm.default:
                asked.append((*(tuple(each.shape) for each in args[:4]), args[1].stride()))
            return call(*args, **(kwargs or {}))

    with Products():
        made = layer(x)
    assert (made.shape, made.dtype) == ((2, 5, 64), torch.bfloat16)
    assert asked == [((10, 64), (64, 64), (), (), (1, 64))]


def test_rounded_passes_take_nothing_from_the_host(make_wam: Callable[..., LingBotVA]) -> None:
    """Recorded on a device that is not the host's: whatever a pass copied would go from one to the other."""
    wam = make_wam(rollout="graphed", window_chunks=1, **{**WIDE, "num_layers": 1}).to("meta")
    wam.choose_precision("fp8")
    wam.lanes = Lanes(CallRecorder(), compiled=False)
    seen = {stream: torch.empty(1, c, CHUNK, h, w, device="meta") for stream, (c, h, w) in wam.shapes.items()}
    session = wam.session(TEXT.to("meta"))
    for stream, x in seen.items():
        session.velocity({stream: x}, {stream: torch.empty(1, CHUNK, device="meta")})
        session.append(stream, x, predicted=True)
    assert wam.lanes.recorded == 2


def test_recordings_hold_every_tensor_that_they_read(wam: LingBotVA, draw: Draw) -> None:
    wam.choose_rollout("graphed")
    wam.lanes = Lanes(CallRecorder(), compiled=False)
    session = wam.session(TEXT)
    drawn_chunks(session, draw(wam, 1, CHUNK, 1), STEPS, chunk=CHUNK, chunks=1)
    held = {x.data_ptr() for x in session._lane._held}
    for layer in rounded(wam):
        assert {layer.weight.data_ptr(), layer.scale.data_ptr(), layer.bias.data_ptr()} <= held


def test_the_second_family_is_recorded_alike(make_cogvideox: Callable[..., CogVideoX]) -> None:
    plain = make_cogvideox()
    wam = deepcopy(plain)
    wam.choose_precision("fp8")
    assert len(rounded(wam)) == 6 * len(wam.transformer.transformer_blocks)
    generator = torch.Generator().manual_seed(1)
    past = {name: torch.randn(1, c, 1, h, w, generator=generator) for name, (c, h, w) in wam.shapes.items()}
    noisy = {name: torch.randn(1, c, 3, h, w, generator=generator) for name, (c, h, w) in wam.shapes.items()}
    sigma = {name: torch.full((1, 3), 0.7) for name in noisy}

    def velocity(model: CogVideoX) -> list[Tensor]:
        session = model.session(TEXT)
        for name, x in past.items():
            session.append(name, x, predicted=False)
        session.advance(1)
        return list(session.velocity(noisy, sigma).values())

    expected, exact = velocity(wam), velocity(plain)
    wam.choose_rollout("graphed")
    wam.recorded = RecordedNetwork(CallRecorder(), compiled=False)
    for _ in range(2):
        assert_same(velocity(wam), expected)
    assert wam.recorded.recordings.count == 1
    assert 1e-3 < max(float((one - other).abs().max()) for one, other in zip(expected, exact, strict=True)) < 1


def test_layers_that_do_not_fit_stay_and_are_counted(
    make_wam: Callable[..., LingBotVA], caplog: pytest.LogCaptureFixture
) -> None:
    wam = make_wam(**{**WIDE, "ffn_dim": 72})
    assert round_layers(wam, LingBotVA.adapter_targets) == len(rounded(wam)) == 2 * (LAYERS - 2)
    said = "4 of 20 linear layers stay as they are, since a side is no multiple of 16: transformer.blocks.0.ffn.net.0"
    assert f"{said}.proj (64 to 72) and others" in caplog.text
    with pytest.raises(ValueError, match=r"no linear layer can be rounded to fp8: .*blocks.0.attn1.to_q \(40 to 40\);"):
        make_wam().choose_precision("fp8")


def test_a_model_moves_without_its_numbers_being_rounded_again(wam: LingBotVA) -> None:
    before = [(layer.weight.clone(), layer.scale.clone()) for layer in rounded(wam)]
    wam.bfloat16()
    for layer, (weight, scale) in zip(rounded(wam), before, strict=True):
        assert torch.equal(layer.weight.view(torch.uint8), weight.view(torch.uint8))
        assert torch.equal(layer.scale, scale)
        assert layer.bias.dtype == torch.bfloat16
    assert wam.transformer.proj_out.weight.dtype == torch.bfloat16
    assert rounded(wam.to("meta"))[0].weight.device.type == "meta"


def test_what_was_rounded_is_not_saved_and_does_not_come_back(wam: LingBotVA, tmp_path: Path) -> None:
    streams = {name: StreamSpec.from_config(name, {"shift": 1.0}) for name in wam.streams}
    with pytest.raises(ValueError, match="is rounded to fp8 for a rollout; save the model as it was loaded"):
        save_wam(tmp_path / "model", wam, streams, kind="teacher")
    assert not (tmp_path / "model").exists()
    with pytest.raises(ValueError, match="what they were is gone: load the model again"):
        wam.choose_precision("own")


def test_what_cannot_be_rounded_is_refused_in_a_sentence(plain: LingBotVA) -> None:
    with pytest.raises(ValueError, match="precision must be one of own, fp8; got 'int8'"):
        plain.choose_precision("int8")
    with pytest.raises(ValueError, match=r"Linear has no linear layers \['to_q'\] to be rounded to fp8"):
        round_layers(nn.Linear(16, 16), ["to_q"])
    plain.transformer.blocks[0].attn1.to_q = nn.Sequential(plain.transformer.blocks[0].attn1.to_q)
    with pytest.raises(ValueError, match="to_q is a Sequential, not a linear layer: merge adapters into the weights"):
        plain.choose_precision("fp8")
    assert not rounded(plain), "all of it is looked at before anything is changed"


def test_a_card_without_fp8_is_refused_and_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(get_device_name=lambda _: "NVIDIA A100", get_device_capability=lambda _: (8, 0))
    monkeypatch.setattr(rounded_linear.torch, "cuda", old)
    with pytest.raises(
        ValueError, match=r"needs a GPU of compute capability 8.9 or more .* NVIDIA A100 has 8.0: leave"
    ):
        check_float8(torch.device("cuda", 0))
    with pytest.raises(ValueError, match="needs an Nvidia GPU or a CPU, and the model is to run on mps: leave the"):
        check_float8(torch.device("mps"))


def test_a_card_whose_library_refuses_the_product_is_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    new = SimpleNamespace(get_device_name=lambda _: "RTX PRO 5000", get_device_capability=lambda _: (12, 0))
    monkeypatch.setattr(rounded_linear.torch, "cuda", new)

    def refuses(*_: object) -> None:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nand more")

    monkeypatch.setattr(rounded_linear, "round_rows", lambda _: (None, None))
    monkeypatch.setattr(rounded_linear, "product", refuses)
    monkeypatch.setattr(rounded_linear.torch, "ones", lambda *_, **__: None)
    with pytest.raises(ValueError, match=r"does not compute on the RTX PRO 5000 \(CUBLAS_STATUS_NOT_SUPPORTED\): take"):
        check_float8(torch.device("cuda", 0))
