# SPDX-License-Identifier: Apache-2.0
"""`RingPass` by two kernels in Triton: one writes keys and values, one attends to what is seen and to nothing else.

Queries of all blocks share one launch. A tile of queries belongs to one block and goes over its stretch of the ring, or
over a part of it where there are too few tiles for the GPU's processors; the parts are then joined by a third kernel.
"""

# Names of types alone, so that the module is there without Triton, which only torch for GPUs brings along.
from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from flashwam.wam.lingbot_va.ring_passes import Ready, RingPass
from flashwam.wam.lingbot_va.ring_tiles import Launch, launch_for, tiles_of

HAS_TRITON = find_spec("triton") is not None
if HAS_TRITON:
    import triton
    import triton.language as tl

__all__ = ["HAS_TRITON", "KernelRingPass"]

_LOG2_E = 1.4426950408889634
_JOINED = 16
"""Queries of a program that joins parts."""


class KernelRingPass(RingPass):
    """See the module.

    Args:
        tokens: Of the blocks, in the order of the pass.
        control: See `RingCache`.
        device: Where the ring is.
    """

    def __init__(self, tokens: Sequence[int], control: Tensor, device: torch.device) -> None:
        self._tokens, self._control = tuple(tokens), control
        properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
        self._processors = properties.multi_processor_count if properties else 1
        self._memory = properties.shared_memory_per_block_optin if properties else 1 << 30
        parts = [(block, offset) for block, count in enumerate(tokens) for offset in range(count)]
        with torch.inference_mode(False):
            self._parts = torch.tensor(parts, dtype=torch.int32, device=device)
        self._launches: dict[Any, tuple[Launch, Tensor]] = {}

    def begin(self) -> Ready:
        """See `RingPass.begin`; there is nothing."""
        return Ready()

    def write(self, ready: Ready, keys: Tensor, values: Tensor, k: Tensor, v: Tensor) -> None:
        """See `RingPass.write`."""
        with torch.cuda.device_of(k):
            self._write(keys, values, k, v)

    def _write(self, keys: Tensor, values: Tensor, k: Tensor, v: Tensor) -> None:
        rows, heads, tokens, head_dim = k.shape
        # Each by its own strides: values are a view of a joined product, keys are new.
        k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (k, v))
        _write_kernel[(tokens, rows)](
            k,
            v,
            keys,
            values,
            self._parts,
            self._control,
            *k.stride()[:3],
            *v.stride()[:3],
            *keys.stride()[:3],
            heads,
            keys.shape[2],
            D=head_dim,
            H=triton.next_power_of_2(heads),
            num_warps=4,
        )

    def attend(self, ready: Ready, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `RingPass.attend`."""
        with torch.cuda.device_of(q):
            return self._attend(q, keys, values)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows, heads, queries, head_dim = q.shape
        if q.stride(3) != 1:
            q = q.contiguous()
        launch, tiles = self._launch(rows * heads, queries, q)
        # Laid out token after token, as torch's own attention puts it out.
        out = torch.empty(rows, queries, heads, head_dim, dtype=q.dtype, device=q.device).transpose(1, 2)
        parts, sums = out, out
        if launch.splits > 1:
            wide = {"dtype": torch.float32, "device": q.device}
            parts = torch.empty(launch.splits, rows, heads, queries, head_dim, **wide)
            sums = torch.empty(launch.splits, rows, heads, queries, 2, **wide)
        _attend_kernel[(len(tiles), rows * heads, launch.splits)](
            q,
            keys,
            values,
            out,
            parts,
            sums,
            tiles,
            self._control,
            *q.stride()[:3],
            *keys.stride()[:3],
            heads,
            queries,
            keys.shape[2],
            head_dim**-0.5 * _LOG2_E,
            D=head_dim,
            M=launch.queries,
            N=launch.keys,
            SPLITS=launch.splits,
            STAGES=launch.stages,
            EXACT=q.dtype == torch.float32,
            num_warps=launch.warps,
        )
        if launch.splits > 1:
            _join_kernel[(triton.cdiv(queries, _JOINED), rows * heads)](
                parts, sums, out, heads, queries, D=head_dim, M=_JOINED, SPLITS=launch.splits
            )
        return out

    def _launch(self, lines: int, queries: int, q: Tensor) -> tuple[Launch, Tensor]:
        """The launch for the leading queries and its tiles on the device, made once."""
        key = (lines, queries, q.dtype)
        if key not in self._launches:
            left, tokens = queries, []
            for count in self._tokens:
                tokens.append(min(count, left))
                left -= tokens[-1]
            launch = launch_for(
                tokens,
                lines,
                head_dim=q.shape[3],
                number_bytes=q.element_size(),
                processors=self._processors,
                memory=self._memory,
            )
            with torch.inference_mode(False):
                tiles = torch.tensor(tiles_of(tokens, launch.queries), dtype=torch.int32, device=q.device)
            self._launches[key] = (launch, tiles)
        return self._launches[key]


def _kernel(function: Any) -> Any:
    return triton.jit(function) if HAS_TRITON else function


@_kernel
def _write_kernel(
    k,
    v,
    keys,
    values,
    parts,
    control,
    k_row,
    k_head,
    k_token,
    v_row,
    v_head,
    v_token,
    ring_row,
    ring_head,
    ring_place,
    heads,
    places,
    D: tl.constexpr,
    H: tl.constexpr,
):
    token, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    block, offset = tl.load(parts + 2 * token), tl.load(parts + 2 * token + 1)
    place = (tl.load(control + 3 * block + 2) + offset) % places
    head, d = tl.arange(0, H)[:, None], tl.arange(0, D)[None, :]
    of_key = row * k_row + token * k_token + head * k_head + d
    of_value = row * v_row + token * v_token + head * v_head + d
    target = row * ring_row + head.to(tl.int64) * ring_head + place * ring_place + d
    tl.store(keys + target, tl.load(k + of_key, mask=head < heads), mask=head < heads)
    tl.store(values + target, tl.load(v + of_value, mask=head < heads), mask=head < heads)


@_kernel
def _attend_kernel(
    q,
    keys,
    values,
    out,
    parts,
    sums,
    tiles,
    control,
    q_row,
    q_head,
    q_token,
    ring_row,
    ring_head,
    ring_place,
    heads,
    queries,
    places,
    scale,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
    EXACT: tl.constexpr,
):
    tile, line, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, head = (line // heads).to(tl.int64), (line % heads).to(tl.int64)
    token = tl.load(tiles + 3 * tile) + tl.arange(0, M)
    inside = tl.arange(0, M) < tl.load(tiles + 3 * tile + 1)
    block = tl.load(tiles + 3 * tile + 2)
    start, length = tl.load(control + 3 * block), tl.load(control + 3 * block + 1)
    part = tl.cdiv(tl.cdiv(length, SPLITS), N) * N
    low, high = split * part, tl.minimum(split * part + part, length)
    d = tl.arange(0, D)
    x = tl.load(
        q + row * q_row + head * q_head + token[:, None] * q_token + d[None, :], mask=inside[:, None], other=0.0
    )
    keys += row * ring_row + head * ring_head
    values += row * ring_row + head * ring_head
    top = tl.full([M], float("-inf"), tl.float32)
    total, summed = tl.zeros([M], tl.float32), tl.zeros([M, D], tl.float32)
    whole = low + tl.maximum(high - low, 0) // N * N
    for at in tl.range(low, whole, N, num_stages=STAGES):
        top, total, summed = _look(
            x, keys, values, start + at, places, ring_place, scale, high - at, top, total, summed, N, D, EXACT, False
        )
    if whole < high:
        left = high - whole
        top, total, summed = _look(
            x, keys, values, start + whole, places, ring_place, scale, left, top, total, summed, N, D, EXACT, True
        )
    if SPLITS == 1:
        target = out + ((row * queries + token[:, None]) * heads + head) * D + d[None, :]
        tl.store(target, (summed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
    else:
        own = (split * tl.num_programs(1) + line) * queries + token
        tl.store(parts + own[:, None].to(tl.int64) * D + d[None, :], summed, mask=inside[:, None])
        tl.store(sums + 2 * own, top, mask=inside)
        tl.store(sums + 2 * own + 1, total, mask=inside)


@_kernel
def _look(
    x,
    keys,
    values,
    first,
    places,
    ring_place,
    scale,
    left,
    top,
    total,
    summed,
    N: tl.constexpr,
    D: tl.constexpr,
    EXACT: tl.constexpr,
    LAST: tl.constexpr,
):
    """One step of a tile over the next N places, of which the last one sees only some: highest score so far, sum of
    weights, weighted sum."""
    # Products of float32 stay so; of shorter numbers they are exact anyway.
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    place = first + tl.arange(0, N)
    place = tl.where(place >= places, place - places, place)
    at = place[:, None] * ring_place + tl.arange(0, D)[None, :]
    seen = tl.arange(0, N) < left
    if LAST:
        key = tl.load(keys + at, mask=seen[:, None], other=0.0)
    else:
        key = tl.load(keys + at)
    score = tl.dot(x, key.T, input_precision=precision) * scale
    if LAST:
        score = tl.where(seen[None, :], score, float("-inf"))
    higher = tl.maximum(top, tl.max(score, 1))
    weight = tl.exp2(score - higher[:, None])
    shrink = tl.exp2(top - higher)
    if LAST:
        value = tl.load(values + at, mask=seen[:, None], other=0.0)
    else:
        value = tl.load(values + at)
    total = total * shrink + tl.sum(weight, 1)
    summed = tl.dot(weight.to(value.dtype), value, summed * shrink[:, None], input_precision=precision)
    return higher, total, summed


@_kernel
def _join_kernel(
    parts,
    sums,
    out,
    heads,
    queries,
    D: tl.constexpr,
    M: tl.constexpr,
    SPLITS: tl.constexpr,
):
    line = tl.program_id(1)
    row, head = (line // heads).to(tl.int64), (line % heads).to(tl.int64)
    token, d = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, D)
    inside = token < queries
    top = tl.full([M], float("-inf"), tl.float32)
    for split in tl.static_range(SPLITS):
        at = (split * tl.num_programs(1) + line) * queries + token
        top = tl.maximum(top, tl.load(sums + 2 * at, mask=inside, other=0.0))
    total = tl.zeros([M], tl.float32)
    summed = tl.zeros([M, D], tl.float32)
    for split in tl.static_range(SPLITS):
        at = (split * tl.num_programs(1) + line) * queries + token
        shrink = tl.exp2(tl.load(sums + 2 * at, mask=inside, other=0.0) - top)
        total += tl.load(sums + 2 * at + 1, mask=inside, other=1.0) * shrink
        part = tl.load(parts + at[:, None].to(tl.int64) * D + d[None, :], mask=inside[:, None], other=0.0)
        summed += part * shrink[:, None]
    target = out + ((row * queries + token[:, None]) * heads + head) * D + d[None, :]
    tl.store(target, (summed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
