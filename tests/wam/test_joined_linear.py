# SPDX-License-Identifier: Apache-2.0
"""Several layers as one product give what each gives, over the same memory."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from flashwam.system.tensor_file import load_tensors, write_tensors
from flashwam.wam.joined_linear import joined
from flashwam.wam.lingbot_va.layers import Linear
from flashwam.wam.rounded_linear import Float8Linear

OUT = (32, 16, 48)


def linear(out: int, seed: int = 0) -> Linear:
    torch.manual_seed(seed + out)
    return Linear(16, out)


def half(out: int) -> Linear:
    layer = linear(out)
    layer.matmul_dtype = torch.bfloat16
    return layer


def plain(out: int) -> nn.Linear:
    torch.manual_seed(out)
    return nn.Linear(16, out, bias=False)


KINDS = {"plain": plain, "ours": linear, "half": half, "8 bit": lambda out: Float8Linear(linear(out).bfloat16())}
Make = Callable[[int], nn.Module]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    return KINDS[request.param]


def numbers(count: int = 5) -> Tensor:
    return torch.randn(2, count, 16, generator=torch.Generator().manual_seed(1))


def each(layers: list[nn.Module], x: Tensor) -> Tensor:
    return torch.cat([layer(x) for layer in layers], -1)


def places(*layers: nn.Module) -> set[int]:
    return {
        x.untyped_storage().data_ptr() for layer in layers for x in (*layer.parameters(), *layer.buffers()) if x.dim()
    }


def test_one_product_gives_what_the_layers_give_before_and_after(make: Make) -> None:
    layers = [make(out) for out in OUT]
    expected = each(layers, numbers())
    whole = joined(layers)
    assert type(whole) is type(layers[0])
    assert_close(whole(numbers()), expected, rtol=1e-6, atol=1e-6)
    assert_close(each(layers, numbers()), expected, rtol=0, atol=0)


def test_the_numbers_are_there_once(make: Make) -> None:
    layers = [make(out) for out in OUT]
    whole = joined(layers)
    assert places(whole) == places(*layers)
    again = joined(layers)
    assert places(again) == places(whole)
    assert not any(x.requires_grad for x in whole.parameters())


def test_what_is_loaded_into_a_layer_is_there_for_all() -> None:
    layers = [linear(out) for out in OUT]
    whole = joined(layers)
    layers[1].load_state_dict(linear(OUT[1], seed=7).state_dict())
    assert_close(whole(numbers()), each(layers, numbers()), rtol=1e-6, atol=1e-6)


def test_a_copy_is_joined_in_a_place_of_its_own() -> None:
    layers = nn.ModuleList([linear(out) for out in OUT])
    whole = joined(list(layers))
    copied = deepcopy(layers)
    other = joined(list(copied))
    assert not places(other) & places(whole)
    nn.init.zeros_(layers[0].weight)
    assert_close(other(numbers()), each(list(copied), numbers()), rtol=1e-6, atol=1e-6)
    assert other(numbers())[..., : OUT[0]].std() > 0.1


def test_layers_that_moved_are_joined_anew() -> None:
    layers = nn.ModuleList([linear(out) for out in OUT])
    old = joined(list(layers))
    layers.double()
    whole = joined(list(layers))
    assert not places(old) & places(whole)
    assert_close(whole(numbers().double()), each(list(layers), numbers().double()))


def test_they_are_saved_and_trained_as_before(tmp_path: Path) -> None:
    layers = nn.ModuleList([linear(out) for out in OUT])
    expected = {name: x.clone() for name, x in layers.state_dict().items()}
    whole = joined(list(layers))
    assert set(layers.state_dict()) == set(expected)
    write_tensors(tmp_path / "layers.safetensors", layers.state_dict())
    assert_close(load_tensors(tmp_path / "layers.safetensors"), expected, rtol=0, atol=0)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1)
    each(list(layers), numbers()).square().mean().backward()
    optimizer.step()
    assert_close(whole(numbers()), each(list(layers), numbers()), rtol=1e-6, atol=1e-6)
    assert (layers[0].weight - expected["0.weight"]).abs().min() > 0.05


def test_layers_that_share_their_memory_stay_where_they_are() -> None:
    """As an optimiser of sharded states keeps parameters."""
    layers = [linear(out) for out in OUT]
    flat = torch.cat([layer.weight.detach().flatten() for layer in layers[::-1]])
    for layer, own in zip(layers[::-1], flat.split([16 * out for out in OUT[::-1]]), strict=True):
        layer.weight.data = own.view_as(layer.weight)
    addresses = [layer.weight.data_ptr() for layer in layers]
    assert joined(layers) is None
    assert [layer.weight.data_ptr() for layer in layers] == addresses


@pytest.mark.parametrize("within", [True, False])
def test_inference_mode_is_no_hindrance_but_what_was_made_in_it_stays(make: Make, within: bool) -> None:
    layers = [make(out) for out in OUT]
    with torch.inference_mode():
        still = [make(out) for out in OUT]
        expected = each(layers, numbers())
    with torch.inference_mode(within), torch.no_grad():
        whole = joined(layers)
        assert_close(whole(numbers()), expected, rtol=1e-6, atol=1e-6)
        assert joined(still) is None


@pytest.mark.parametrize(
    "layers",
    [
        [linear(16), plain(16)],
        [linear(16), half(16)],
        [linear(16), linear(16).double()],
        [linear(16), Linear(8, 16)],
        [linear(16), KINDS["8 bit"](16)],
        [nn.Linear(16, 16), nn.Linear(16, 16, bias=False)],
    ],
    ids=["classes", "products", "dtypes", "inputs", "bits", "bias"],
)
def test_layers_that_differ_are_not_joined(layers: list[nn.Module]) -> None:
    assert joined(layers) is None
