# SPDX-License-Identifier: Apache-2.0
"""Attention of one layer of a rollout by several ways, at the real model's sizes: microseconds, and error to float32.

    python benchmarks/ring_attention.py                              on a GPU, captured; a few seconds
    python benchmarks/ring_attention.py --device cpu --places 64     shows on a CPU that it runs

The two passes of a fused student of 1v/1a: what is drawn of the video with what was seen of both streams, and actions
with the drawn video; young (two chunks of history) and with a full window. "Masked" is torch's attention over all
places of the ring up to the last one that is seen; "block by block" is flash attention of each block over its own
stretch; "nothing hidden" is cuDNN's over the longest stretch, which is less work to tell and computes something else.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import about, keep
from timing import seconds_of
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashwam.wam.lingbot_va.ring_choice import make_ring_pass
from flashwam.wam.lingbot_va.ring_passes import MOST_BLOCKS, MaskedRingPass

HEADS, WIDTH, LAYERS = 24, 128, 6
Stretch = tuple[int, int]


def passes(places: int) -> dict[str, tuple[tuple[int, ...], tuple[Stretch, ...]]]:
    """Name -> tokens of the blocks, and the stretch that each sees: first place and length."""
    if places < 10336:
        return {"first pass, tiny": ((5, 3), ((0, 9), (2, 11)))}
    full = 9824
    return {
        "first pass, young": ((240, 240, 32), ((0, 816), (0, 544), (0, 576))),
        "second pass, young": ((32, 240), ((0, 848), (0, 816))),
        "first pass, full window": ((240, 240, 32), ((300, full + 240), (28, full), (268, full))),
        "second pass, full window": ((32, 240), ((540, full), (300, full))),
    }


def ways(
    tokens: tuple[int, ...], seen: tuple[Stretch, ...], ring: Tensor, q: Tensor
) -> Iterator[tuple[str, Callable[[int], Tensor]]]:
    """Each way as a function of the layer."""
    own = [start + length - count for (start, length), count in zip(seen, tokens, strict=True)]
    control = torch.zeros(MOST_BLOCKS, 3, dtype=torch.int32)
    control[: len(tokens)] = torch.tensor([(*one, at) for one, at in zip(seen, own, strict=True)], dtype=torch.int32)
    control = control.to(ring.device)
    last = max(start + length for start, length in seen)
    chosen, masked = make_ring_pass(tokens, control, ring), MaskedRingPass(tokens, control, ring[..., :last, :])
    begun, hidden = chosen.begin(), masked.begin()
    if not isinstance(chosen, MaskedRingPass):
        yield "ours", lambda layer: chosen.attend(begun, q, *ring[:, layer])
    yield "masked", lambda layer: masked.attend(hidden, q, *ring[:, layer, ..., :last, :])

    def block_by_block(layer: int) -> Tensor:
        parts = zip(q.split(tokens, 2), seen, strict=True)
        cut = ((part, ring[:, layer, ..., start : start + length, :]) for part, (start, length) in parts)
        return torch.cat([functional.scaled_dot_product_attention(part, *pair) for part, pair in cut], 2)

    yield "block by block", _by(block_by_block, SDPBackend.FLASH_ATTENTION)
    if ring.is_cuda:

        def whole(layer: int) -> Tensor:
            return functional.scaled_dot_product_attention(q, *ring[:, layer, ..., :last, :])

        yield "nothing hidden", _by(whole, SDPBackend.CUDNN_ATTENTION)


def _by(function: Callable[[int], Tensor], kernel: SDPBackend) -> Callable[[int], Tensor]:
    def run(layer: int) -> Tensor:
        with sdpa_kernel([kernel, SDPBackend.MATH]):
            return function(layer)

    return run


@torch.no_grad()
def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every way of every pass."""
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    heads = HEADS if device.type == "cuda" else 2
    generator = torch.Generator().manual_seed(0)
    ring = torch.randn(2, LAYERS, 1, heads, arguments.places, WIDTH, generator=generator).to(device, dtype)
    for name, (tokens, seen) in passes(arguments.places).items():
        q = torch.randn(1, sum(tokens), heads, WIDTH, generator=generator).to(device, dtype).transpose(1, 2)
        parts = zip(q.split(tokens, 2), seen, strict=True)
        exact = torch.cat(
            [
                functional.scaled_dot_product_attention(
                    part.float(), *ring[:, 0, ..., start : start + length, :].float()
                )
                for part, (start, length) in parts
            ],
            2,
        )
        for way, run in ways(tokens, seen, ring, q):

            def layers(run: Callable[[int], Tensor] = run) -> None:
                for layer in range(LAYERS):
                    run(layer)

            error = float((run(0).float() - exact).norm() / exact.norm())
            yield {"pass": name, "way": way, "us": 1e6 * seconds_of(layers, device) / LAYERS, "error": error}


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| pass | way | microseconds a layer | error |", "|---|---|---:|---:|"]
    lines += [f"| {row['pass']} | {row['way']} | {row['us']:.1f} | {row['error']:.1e} |" for row in found]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--places", type=int, default=10336, help="of the ring")
    parser.add_argument("--out", type=Path, default=Path("runs/ring_attention"))
    arguments = parser.parse_args()
    run, found = about(__file__, arguments, device=arguments.device), list(rows(arguments))
    keep(arguments.out, torch.device(arguments.device).type, run, {"results": found}, table(found))
    print(table(found))


if __name__ == "__main__":
    main()
