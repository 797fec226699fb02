# SPDX-License-Identifier: Apache-2.0
"""Attention of a training pass alone, under its mask: a dense mask against flex attention's tiles."""

from typing import Any

import torch
from sizes import LIBERO, ROBOTWIN, SIZES
from timing import NOT_MEASURED, Clock, forget_peak, peak_bytes, shown, spread

from flashwam.wam.lingbot_va.masks import ATTENTION_BACKENDS, teacher_forced_layout

__all__ = ["attention_rows", "attention_table"]

FRAMES = 16
LENGTHS = {"RoboTwin": ROBOTWIN, "LIBERO": LIBERO}
"""Shapes of the training passes that are timed; both recipes have windows of 16 latent frames."""
HEADS, HEAD_DIM = 24, 128


def attention_rows(size: str, device: torch.device, dtype: torch.dtype, *, rounds: int) -> list[dict[str, Any]]:
    """A row for each of the lengths and backends: one layer's attention of a pass, forward and backward.

    Args:
        size: A name in `sizes.SIZES`, which has its own heads and, if tiny, its own shapes.
        device: Where it is computed.
        dtype: Of queries, keys and values.
        rounds: Calls that are timed.
    """
    own = SIZES[size]
    heads, head_dim = own.get("num_attention_heads", HEADS), own.get("attention_head_dim", HEAD_DIM)
    found = []
    for name, shapes in LENGTHS.items():
        shapes = shapes | {key: own[key] for key in shapes if key in own}
        for backend in ATTENTION_BACKENDS:
            row = {"size": size, "length": name, "backend": backend}
            try:
                row |= _timed(shapes, (heads, head_dim), backend, device=device, dtype=dtype, rounds=rounds)
            except Exception as error:
                row |= {"seconds": None, "why": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            found.append(row)
    return found


def _timed(
    shapes: dict[str, Any],
    heads: tuple[int, int],
    backend: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    rounds: int,
) -> dict[str, Any]:
    rows, columns = shapes["latent_size"]
    per_frame = (("video", rows // 2 * (columns // 2)), ("action", shapes["actions_per_frame"]))
    clock = Clock(device)
    forget_peak(device)
    clock()
    layout = teacher_forced_layout(
        FRAMES,
        tokens_per_frame=per_frame,
        noisy=("video", "action"),
        chunk_frames=shapes["chunk_frames"],
        window=shapes["window_chunks"],
        backend=backend,
        device=device,
    )
    mask_seconds = clock()
    tokens = layout.noisy_tokens + sum(count * layout.clean_frames[name] for name, count in per_frame)
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(1, heads[0], tokens, heads[1], generator=generator, device=device, dtype=dtype).requires_grad_()
        for _ in range(3)
    )

    def call() -> float:
        clock()
        layout.attend(q, k, v).backward(q.detach())
        return clock()

    first = call()
    seconds = spread([call() for _ in range(rounds)])
    return {
        "tokens": tokens,
        "seconds": seconds["median"],
        "spread": seconds,
        "first_seconds": first,
        "mask_seconds": mask_seconds,
        "peak_bytes": peak_bytes(device),
    }


def attention_table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "One layer's attention of a pass over noisy and clean tokens of both streams, forward and backward, under the "
        "mask of training. Medians; p5 and p95 in brackets. First: the first call, with whatever is compiled in it. "
        "Mask: made once for a kind of pass and kept.",
        "",
        "| size | length | tokens | attention | ms | first, s | mask, s | dense / it | peak GiB |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    dense: dict[tuple[str, str], float] = {}
    for row in rows:
        kind = row["size"], row["length"]
        if row["seconds"] is None:
            lines.append(f"| {kind[0]} | {kind[1]} | | {row['backend']} | {NOT_MEASURED}: {row['why']} | | | | |")
            continue
        if row["backend"] == "sdpa":
            dense[kind] = row["seconds"]
        against = dense.get(kind)
        low, high = (1000 * row["spread"][key] for key in ("p5", "p95"))
        cells = [
            f"{1000 * row['seconds']:.2f} ({low:.2f}, {high:.2f})",
            f"{row['first_seconds']:.2f}",
            f"{row['mask_seconds']:.3f}",
            shown(against and against / row["seconds"], ".2f"),
            shown(row["peak_bytes"], ".2f", scale=2**-30),
        ]
        lines.append(f"| {kind[0]} | {kind[1]} | {row['tokens']} | {row['backend']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
