# SPDX-License-Identifier: Apache-2.0
"""The figure of what a student starts from, and of the share of its training where its sampler stands."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flashwam.core.consistency import make_consistency_function
from flashwam.report.figures import INK, MUTED, label_ends, new_figure, save_figure, stream_colour, tidy
from flashwam.report.levels import FEW_SAMPLES, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    with new_figure(8.6 if taught else 4.8, 3.5) as figure:
        left, *right = figure.subplots(1, 2, width_ratios=(1.25, 1)) if taught else [figure.subplots()]
        sigma = torch.linspace(0, 1, 201, dtype=torch.float64)
        functions = {label: f["config"] for numbers in streams.values() for label, f in numbers["functions"].items()}
        ends = []
        for label, config in functions.items():
            for share, colour, what in zip(
                make_consistency_function(config).mix(sigma), (INK, MUTED), ("data", "noise"), strict=True
            ):
                left.plot(sigma, share, color=colour, lw=1.8, ls=_DASHES.get(label, _OTHER_DASH))
                ends.append((1.0, float(share[-1]), f"{label}: {what}", colour))
        for position, (name, numbers) in enumerate(streams.items()):
            # Later ones are smaller, so that streams at the same place are all seen.
            size = max(4.0, 9.0 - 3 * position)
            for level in numbers["levels"]:
                mix = level["start"][numbers["own"]]
                left.plot([level["sigma"]] * 2, mix, "o", ms=size, color=colours[name], clip_on=False, zorder=3)
        left.set(xlim=(0, 1), xlabel="noise level sigma   (0 = data, 1 = noise)", ylabel="share in f")
        left.set_title("f over the teacher's weights")
        tidy(left)
        label_ends(left, ends, size=9)
        for axes in right:
            _draw_shares(axes, taught)
            axes.set_xlabel(f"within {analysis['rule']['near']:g} of it (dashed: {percent(FEW_SAMPLES)})")
        return save_figure(figure, path)


def _draw_shares(axes: "Axes", taught: Sequence[tuple[str, str, float]]) -> None:
    axes.set_title("Samples near the sampler")
    for y, (_, colour, near) in enumerate(reversed(taught)):
        axes.barh(y, near, color=colour, height=0.55)
        at = (max(near, FEW_SAMPLES), y)
        axes.annotate(percent(near), at, xytext=(5, 0), textcoords="offset points", va="center", fontsize=9.5)
    axes.set_yticks(range(len(taught)), [text for text, _, _ in reversed(taught)])
    axes.axvline(FEW_SAMPLES, color=INK, lw=1, ls=(0, (2, 2)))
    axes.set(xlim=(0, 1.15), ylim=(-0.7, len(taught) - 0.3))
    axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
    tidy(axes, grid="x")
