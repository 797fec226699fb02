# SPDX-License-Identifier: Apache-2.0
"""The results of `rollout.py` as Markdown."""

from typing import Any

from sizes import STREAMS
from timing import NOT_MEASURED, shown

__all__ = ["table"]

INSIDE = (
    "Inside a chunk: the transformer alone, from noise to a chunk that has been observed, batch 1; no pictures, no "
    "autoencoder, no text encoder. Medians; p5 and p95 in brackets. Warm-up: building the loop with its history, "
    "compiling, capturing, and two chunks. Floor: matrix products and attention of the same passes at the speed that "
    "this device reached with them in this run. Stages of our loops are told without waiting for the device, so what "
    "it has left to do is in the cache's column. Where both streams are drawn together, their time is in the video's "
    "column."
)


def table(results: list[dict[str, Any]]) -> str:
    """All results."""
    lines = [INSIDE, ""]
    for result in results:
        if result["history"] is None:
            past = "no past but the picture"
        else:
            age = "a full window" if result.get("full") else "a young episode"
            past = f"{result['history']} chunks of history: {age}"
        lines += [
            f"### {result['size']} ({result['parameters']:,} parameters), {past}",
            "",
            "| loop | passes | tokens | video ms | action ms | cache ms | chunk ms | chunks | published / it "
            "| floor ms | it / floor | peak GiB | warm-up s |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        published = [row for row in result["rows"] if row["name"].startswith("published") and row["ms"]]
        published = [row for row in published if not row["name"].startswith("published captured")]
        published = [row for row in published if row["passes"] == result.get("many", row["passes"])]
        slow = max(published, key=lambda row: (row["passes"], row["ms"]))["ms"] if published else None
        lines += [_line(row, slow) for row in result["rows"]]
        lines.append("")
    return "\n".join(lines)


def _line(row: dict[str, Any], slow: float | None) -> str:
    first = f"| {row['name']} | {row['passes']} | {row['tokens']:,} "
    floor = row["floor"] and 1000 * row["floor"]["seconds"]
    if row["ms"] is None:
        return f"{first}| | | | {NOT_MEASURED}: {row['why']} | | | {shown(floor) if floor else ''} | | | |"
    spread = row["spread"]
    together = row["stages"].get("+".join(STREAMS))
    stages = {STREAMS[0]: together, **row["stages"]}
    cells = [
        *("" if stages.get(key) is None else f"{stages[key]:.1f}" for key in (*STREAMS, "cache")),
        f"{row['ms']:.1f} ({spread['p5']:.1f}, {spread['p95']:.1f})",
        str(spread["count"]),
        shown(slow and slow / row["ms"]),
        f"{floor:.1f}" if floor else "",
        f"{row['ms'] / floor:.1f}" if floor else "",
        shown(row["peak_bytes"], ".2f", scale=2**-30),
        f"{row['warm_up_seconds']:.1f}",
    ]
    return f"{first}| {' | '.join(cells)} |"
