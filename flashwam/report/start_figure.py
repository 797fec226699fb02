# SPDX-License-Identifier: Apache-2.0
"""The figure of what a student starts from, and of the share of its training where its sampler stands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flashwam.core.consistency import make_consistency_function
from flashwam.report.figures import INK, MUTED, label_ends, new_figure, save_figure, stream_colour, tidy
from flashwam.report.levels import FEW_SAMPLES, percent

__all__ = ["draw_start"]

_DASHES = {"linear": "-", "lcm": (0, (5, 2))}
_OTHER_DASH = (0, (1, 1.5))


def draw_start(analysis: Mapping[str, Any], path: Path) -> Path:
    """Left the shares of data and noise in f over the teacher's weights, right the samples near the sampler's levels.

    Args:
        analysis: Result of `flashwam.report.schedule.schedule_analysis`.
        path: PNG to write.
    """
    streams = analysis["streams"]
    colours = {name: stream_colour(name, i) for i, name in enumerate(streams)}
    taught = [
        (f"{name}, sigma {level['sigma']:.2g}", colours[name], level["near"])
        for name, numbers in streams.items()
        for level in numbers["levels"]
        if "near" in level
    ]
    with new_figure(8.6, 3.5) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        sigma = torch.linspace(0, 1, 201, dtype=torch.float64)
        functions = {label: f["config"] for numbers in streams.values() for label, f in numbers["functions"].items()}
        ends = []
        for label, config in functions.items():
            for share, colour, what in zip(
                make_consistency_function(config).mix(sigma), (INK, MUTED), ("data", "noise"), strict=True
            ):
                left.plot(sigma, share, color=colour, lw=1.8, ls=_DASHES.get(label, _OTHER_DASH))
                ends.append((1.0, float(share[-1]), f"{label}: {what}", colour))
        for name, numbers in streams.items():
            for level in numbers["levels"]:
                mix = level["start"][numbers["own"]]
                left.plot([level["sigma"]] * 2, mix, "o", ms=6.5, color=colours[name], clip_on=False, zorder=3)
        left.set(xlim=(0, 1), xlabel="noise level sigma   (0 = data, 1 = noise)", ylabel="share in f")
        left.set_title("f over the teacher's weights")
        tidy(left)
        label_ends(left, ends, size=9)
        right.set_title("Samples near the sampler")
        for y, (_, colour, near) in enumerate(reversed(taught)):
            right.barh(y, near, color=colour, height=0.55)
            right.annotate(
                percent(near), (near, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9.5
            )
        right.set_yticks(range(len(taught)), [text for text, _, _ in reversed(taught)])
        right.axvline(FEW_SAMPLES, color=INK, lw=1, ls=(0, (2, 2)))
        right.set(xlim=(0, 1.15), ylim=(-0.7, max(1, len(taught)) - 0.3))
        right.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
        right.set_xlabel(f"within {analysis['rule']['near']:g} of the level   (dashed: {percent(FEW_SAMPLES)})")
        tidy(right, grid="x")
        return save_figure(figure, path)
