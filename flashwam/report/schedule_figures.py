# SPDX-License-Identifier: Apache-2.0
"""Figures of the schedule analysis, drawn from its numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flashwam.report.figures import INK, MUTED, label_ends, new_figure, readable, save_figure, stream_colour, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_gradient_scale", "draw_measured_gradients", "draw_moments"]

_DASHES = {"linear": "-", "lcm": (0, (5, 2))}
_DENSITY_CEILING = 5.5


def _colours(analysis: Mapping[str, Any]) -> dict[str, str]:
    return {name: stream_colour(name, i) for i, name in enumerate(analysis["streams"])}


def _all_functions(analysis: Mapping[str, Any]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for numbers in analysis["streams"].values():
        for label, function in numbers["functions"].items():
            found.setdefault(label, function["gradient_scale"])
    return found


def _by_schedule(analysis: Mapping[str, Any]) -> list[tuple[list[str], Mapping[str, Any]]]:
    """(streams that share a schedule, the first one's numbers): one density serves them all."""
    groups: list[tuple[list[str], Mapping[str, Any]]] = []
    for name, numbers in analysis["streams"].items():
        shared = next((names for names, first in groups if first["schedule"] == numbers["schedule"]), None)
        if shared is None:
            groups.append(([name], numbers))
        else:
            shared.append(name)
    return groups


def _draw_densities(axes: "Axes", analysis: Mapping[str, Any]) -> None:
    colours = _colours(analysis)
    ceiling = min(_DENSITY_CEILING, 1.1 * max(max(s["density"]) for s in analysis["streams"].values()))
    labelled: list[tuple[float, bool, int]] = []
    for names, numbers in _by_schedule(analysis):
        colour = colours[names[0]] if len(names) == 1 else INK
        sigma, density = np.array(numbers["sigma"]), np.array(numbers["density"])
        axes.fill_between(sigma, np.minimum(density, ceiling), color=colour, alpha=0.16, lw=0)
        axes.plot(sigma, np.where(density <= ceiling, density, np.nan), color=colour, lw=2)
        median = numbers["median"]
        axes.axvline(median, color=colour, lw=1, ls=(0, (2, 2)))
        left = median >= 0.5
        near = {row for other, side, row in labelled if side == left and abs(median - other) < 0.3}
        row = next(i for i in range(len(labelled) + 1) if i not in near)
        labelled.append((median, left, row))
        axes.annotate(
            f"{' and '.join(names)}, {numbers['label']}\nmedian {median:.2g}",
            (median, ceiling * (0.95 - 0.3 * row)),
            xytext=(-7 if left else 7 if median > 0.15 else 20, 0),
            textcoords="offset points",
            color=readable(colour),
            ha="right" if left else "left",
            va="top",
            fontweight="bold",
            fontsize=9.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )
    axes.set(ylim=(0, ceiling), ylabel="share of draws\n(density)")
    axes.set_yticks([0, 1] if ceiling < 2 else range(0, int(ceiling) + 1, 2 if ceiling > 4 else 1))
    tidy(axes)


def draw_gradient_scale(analysis: Mapping[str, Any], path: Path) -> Path:
    """|b| of every function against sigma, and under it where each stream's draws lie (Flash-WAM's figure, redone)."""
    colours = _colours(analysis)
    with new_figure(6.6, 5.2) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        ends: list[tuple[float, float, str, str]] = []
        for label, scale in _all_functions(analysis).items():
            sigma = np.linspace(0, 1, len(scale))
            top.plot(sigma[1:], scale[1:], color=INK, lw=2, ls=_DASHES.get(label, (0, (1, 1.5))))
            ends.append((1.0, scale[-1], label, INK))
        rings = {name: len(names) - i for names, _ in _by_schedule(analysis) for i, name in enumerate(names)}
        for name, numbers in analysis["streams"].items():
            for label, function in numbers["functions"].items():
                own = label == numbers["weighs_as"] and numbers["weight"] > 0
                # Streams that share a schedule share their circles: the later inside the earlier.
                top.plot(
                    numbers["median"],
                    function["gradient_scale_at_median"],
                    "o",
                    ms=2 + 6 * rings[name],
                    color=colours[name] if own else "white",
                    mec=colours[name],
                    mew=1.8,
                    zorder=5,
                )
        reference = analysis["streams"][analysis["reference"]]
        ratio = reference["functions"]["lcm"]
        if reference["median"] > 0.2:
            high, low = ratio["gradient_scale_at_median"], ratio["gradient_scale_at_low_noise"]
            top.plot([0.1], [low], "D", ms=5, color=INK, zorder=5)
            top.annotate(
                f"at sigma 0.1 lcm passes {high / low:.0f} times less\nthan at {analysis['reference']}'s "
                f"median, linear {reference['median'] / 0.1:.0f} times less",
                (0.1, low),
                xytext=(12, -3),
                textcoords="offset points",
                fontsize=9,
                color=MUTED,
                va="top",
            )
        top.set(yscale="log", ylim=(1e-4, 2), ylabel=r"gradient factor $|b(\sigma)|$", xlim=(0, 1))
        top.text(
            0.995,
            0.04,
            "circles: medians of the streams below\nfilled: this recipe's choice",
            transform=top.transAxes,
            ha="right",
            fontsize=9,
            color=MUTED,
        )
        top.set_title("How much gradient a consistency function lets through")
        tidy(top)
        bottom.set_title("Where each stream's noise levels lie")
        bottom.set_xlabel("noise level sigma   (0 = data, 1 = noise)")
        _draw_densities(bottom, analysis)
        label_ends(top, ends, size=10)
        return save_figure(figure, path)


def draw_moments(analysis: Mapping[str, Any], path: Path) -> Path:
    """E b^2 per stream and function on one logarithmic axis; the recipe's own choice is filled."""
    colours = _colours(analysis)
    rows = [(name, label) for name, s in analysis["streams"].items() for label in sorted(s["functions"], reverse=True)]
    with new_figure(6.6, 0.9 + 0.42 * len(rows)) as figure:
        axes = figure.subplots()
        values = []
        for y, (name, label) in enumerate(reversed(rows)):
            numbers = analysis["streams"][name]
            value = numbers["functions"][label]["mean_squared_gradient_scale"]
            own = label == numbers["weighs_as"] and numbers["weight"] > 0
            values.append(value)
            axes.plot([1e-9, value], [y, y], color=colours[name], lw=1.2, alpha=0.35)
            axes.plot(value, y, "o", ms=10, color=colours[name] if own else "white", mec=colours[name], mew=2)
            axes.annotate(
                f"{value:.2g}" + ("   this recipe" if own else ""),
                (value, y),
                xytext=(10, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
                color=readable(colours[name]) if own else MUTED,
                fontweight="bold" if own else "normal",
            )
        axes.set_yticks(range(len(rows)), [f"{name}, {label}" for name, label in reversed(rows)])
        for tick, (name, _) in zip(axes.get_yticklabels(), reversed(rows), strict=True):
            tick.set_color(readable(colours[name]))
        axes.set(xscale="log", xlim=(min(values) / 2.5, 4), ylim=(-0.6, len(rows) - 0.4))
        axes.set_xlabel("E $b^2$: mean squared gradient factor over the stream's own draws")
        axes.set_title("The gradient each stream gets")
        tidy(axes, grid="x")
        return save_figure(figure, path)


def draw_measured_gradients(analysis: Mapping[str, Any], measured: Mapping[str, Any], path: Path) -> Path:
    """Measured gradient per sigma bin as dots over theory |b| as a line, one panel per stream.

    Args:
        analysis: Result of `schedule_analysis`.
        measured: Stream name -> {"sigma": places of the bins, "gradient": RMS per bin, ...}.
        path: PNG to write.
    """
    colours = _colours(analysis)
    with new_figure(6.6, 3.4) as figure:
        panels = figure.subplots(1, len(measured), squeeze=False, sharey=True)[0]
        for axes, (name, bins) in zip(panels, measured.items(), strict=True):
            numbers = analysis["streams"][name]
            sigma = np.array(numbers["sigma"])[1:]
            weight = numbers["weighs_as"]
            theory = np.array(numbers["functions"][weight]["gradient_scale"])[1:]
            axes.plot(sigma, theory, color=INK, lw=1.6, ls=_DASHES.get(weight, (0, (1, 1.5))))
            axes.plot(bins["sigma"], bins["gradient"], "o", ms=6.5, color=colours[name])
            axes.set(yscale="log", xlim=(0, 1.02), xlabel="sigma")
            axes.set_title(f"{name}, {weight}", color=readable(colours[name]))
            axes.text(
                0.97,
                0.06,
                "line: |b|\ndots: measured",
                transform=axes.transAxes,
                ha="right",
                fontsize=9,
                color=MUTED,
            )
            tidy(axes)
        panels[0].set_ylabel("gradient factor")
        return save_figure(figure, path)
