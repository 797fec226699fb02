# SPDX-License-Identifier: Apache-2.0
"""Matrix products, writes and text attention of one layer of the real model by several ways: microseconds, captured.

    python benchmarks/layer_pieces.py                                        on a GPU, a few seconds
    python benchmarks/layer_pieces.py --device cpu --width 64 --inner 128    shows on a CPU that it runs

At the token counts of a fused student's passes. Every layer has weights of its own, so that none of them is found in
the GPU's cache.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import about, keep
from ring_attention import HEADS, LAYERS
from timing import NOT_MEASURED, seconds_of
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashwam.core.float8 import round_rows, sums
from flashwam.wam.lingbot_va.ring_choice import make_ring_pass
from flashwam.wam.lingbot_va.ring_passes import MOST_BLOCKS, MaskedRingPass

TOKENS, TEXT = (512, 272, 32), 512
Piece = Callable[[int], object]


def products(tokens: int, width: int, inner: int, options: dict[str, Any]) -> Iterator[tuple[str, Piece]]:
    """Products of a layer, as functions of the layer."""
    three, up = (torch.randn(LAYERS, out, width, **options) * 0.02 for out in (3 * width, inner))
    down = torch.randn(LAYERS, width, inner, **options) * 0.02
    x, y = torch.randn(tokens, width, **options), torch.randn(tokens, inner, **options)
    bias = torch.randn(max(3 * width, inner), **options)

    def linear(x: Tensor, weights: Tensor, layer: int) -> Tensor:
        return functional.linear(x, weights[layer], bias[: weights.shape[1]])

    yield "one projection", partial(linear, x, three[:, :width])
    yield "three projections", lambda layer: [linear(x, part, layer) for part in three.chunk(3, 1)]
    yield "three projections in one", partial(linear, x, three)
    yield "up", partial(linear, x, up)
    yield "up, then GELU", lambda layer: functional.gelu(linear(x, up, layer), approximate="tanh")
    yield "up with GELU inside", lambda layer: torch._addmm_activation(bias[:inner], x, up[layer].t(), use_gelu=True)
    yield "down", partial(linear, y, down)
    for name, values, weights in (("projection", x, three[:, :width]), ("up", x, up), ("down", y, down)):
        rows, scale = round_rows(values)
        rounded = [round_rows(weight) for weight in weights]
        one = torch.ones((), device=x.device)

        def whole(layer: int, rows: Tensor = rows, rounded: Any = rounded, one: Tensor = one) -> Tensor:
            return sums(rows, rounded[layer][0], unit=one)

        def by_row(layer: int, rows: Tensor = rows, scale: Tensor = scale, rounded: Any = rounded) -> Tensor:
            weight, own = rounded[layer]
            return torch._scaled_mm(
                rows, weight.t(), scale_a=scale, scale_b=own.t(), out_dtype=torch.bfloat16, use_fast_accum=True
            )

        yield f"{name} in fp8, a scale for the matrix", whole
        yield f"{name} in fp8, a scale for each row, no bias", by_row


def attention(tokens: int, width: int, options: dict[str, Any]) -> Iterator[tuple[str, Piece]]:
    """Writing into a ring, and attention to the text."""
    heads = min(HEADS, width // 16)
    ring = torch.randn(2, LAYERS, 1, heads, 2 * tokens, width // heads, **options)
    q, k, v = torch.randn(3, 1, tokens, heads, width // heads, **options).transpose(2, 3)
    control = torch.zeros(MOST_BLOCKS, 3, dtype=torch.int32, device=q.device)
    for name, one in (
        ("writing, as a rollout does", make_ring_pass((tokens,), control, ring)),
        ("writing by index_copy_", MaskedRingPass((tokens,), control, ring)),
    ):
        ready = one.begin()
        yield name, lambda layer, one=one, ready=ready: one.write(ready, *ring[:, layer], k, v)
    text = torch.randn(2, LAYERS, 1, heads, TEXT, width // heads, **options)
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION) if q.is_cuda else (SDPBackend.MATH,):

        def look(layer: int, kernel: SDPBackend = kernel) -> Tensor:
            with sdpa_kernel([kernel]):
                return functional.scaled_dot_product_attention(q, *text[:, layer])

        yield f"attention to the text, {kernel.name.lower()}", look


@torch.no_grad()
def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every piece at every count of tokens; one that cannot run here says so."""
    device = torch.device(arguments.device)
    options = {"device": device, "dtype": torch.bfloat16 if device.type == "cuda" else torch.float32}
    torch.manual_seed(0)
    for tokens in TOKENS:
        pieces = [*products(tokens, arguments.width, arguments.inner, options)]
        for name, run in [*pieces, *attention(tokens, arguments.width, options)]:
            try:
                seconds = seconds_of(lambda run=run: [run(layer) for layer in range(LAYERS)], device)
                yield {"piece": name, "tokens": tokens, "us": 1e6 * seconds / LAYERS}
            except (RuntimeError, NotImplementedError) as error:
                yield {"piece": name, "tokens": tokens, "us": None, "why": str(error).splitlines()[0][:200]}


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown, a column for each count of tokens."""
    lines = [f"| microseconds a layer | {' | '.join(f'{count} tokens' for count in TOKENS)} |", "|---|" + "---:|" * 3]
    for name in dict.fromkeys(row["piece"] for row in found):
        times = {row["tokens"]: row["us"] for row in found if row["piece"] == name}
        cells = (NOT_MEASURED if times.get(count) is None else f"{times[count]:.1f}" for count in TOKENS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=3072)
    parser.add_argument("--inner", type=int, default=14336, help="of the feed-forward")
    parser.add_argument("--out", type=Path, default=Path("runs/layer_pieces"))
    arguments = parser.parse_args()
    run, found = about(__file__, arguments, device=arguments.device), list(rows(arguments))
    keep(arguments.out, torch.device(arguments.device).type, run, {"results": found}, table(found))
    print(table(found))


if __name__ == "__main__":
    main()
