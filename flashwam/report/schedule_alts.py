# SPDX-License-Identifier: Apache-2.0
"""Texts that say what is seen in a schedule analysis' figures, from the numbers that they were drawn from."""

from collections.abc import Mapping
from typing import Any

import torch

from flashwam.core.consistency import make_consistency_function
from flashwam.report.levels import mix_text, percent

__all__ = ["gradient_scale_alt", "moments_alt", "start_alt"]


def start_alt(analysis: Mapping[str, Any]) -> str:
    """Of what a student starts from, and of the samples near its sampler.

    Args:
        analysis: Result of `flashwam.report.schedule.schedule_analysis`.
    """
    streams = analysis["streams"]
    configs = {label: f["config"] for numbers in streams.values() for label, f in numbers["functions"].items()}
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    courses = []
    for label, config in configs.items():
        shares = zip(("data", "noise"), make_consistency_function(config).mix(ends), strict=True)
        told = (f"{name} from {first:.2f} to {last:.2f}" for name, (first, last) in shares)
        courses.append(f"{label}, {' and '.join(told)}")
    levels = [(name, n["own"], level) for name, n in streams.items() for level in n["levels"]]
    dots = [f"{_at(name, level)} with {own}, {mix_text(level['start'][own])}" for name, own, level in levels]
    bars = [f"{_at(name, level)} {percent(level['near'])}" for name, _, level in levels if "near" in level]
    text = (
        f"Curves of the shares of data and noise in f over the teacher's weights, as sigma goes from 0 to 1: "
        f"{'; '.join(courses)}. Dots on them where the sampler stands: {'; '.join(dots)}"
    )
    return text + (f". Beside them, bars of the training samples near it: {'; '.join(bars)}" if bars else "")


def _at(name: str, level: Mapping[str, Any]) -> str:
    return f"{name} at sigma {level['sigma']:.2g}"


def gradient_scale_alt(analysis: Mapping[str, Any]) -> str:
    """Of the gradient factors, and of where the draws lie.

    Args:
        analysis: See `start_alt`.
    """
    streams = analysis["streams"]
    functions = {label: f for numbers in streams.values() for label, f in numbers["functions"].items()}
    curves = [
        f"{label} {f['gradient_scale_at_low_noise']:.2g} at sigma {analysis['rule']['low_noise']:g} and "
        f"{f['gradient_scale'][-1]:.2g} at 1"
        for label, f in functions.items()
    ]
    medians = [
        f"{name} {' and '.join(_scale(numbers, label) for label in numbers['functions'])}"
        for name, numbers in streams.items()
    ]
    draws = [
        f"{name}, {numbers['label']}, half of it above {numbers['median']:.2g}" for name, numbers in streams.items()
    ]
    return (
        f"Above, curves of |b| over sigma on a logarithmic axis: {'; '.join(curves)}. Circles on them at the streams' "
        f"medians: {'; '.join(medians)}. Below, the density of the noise levels: {'; '.join(draws)}"
    )


def _scale(numbers: Mapping[str, Any], label: str) -> str:
    chosen = " (this recipe)" if label == numbers["weighs_as"] and numbers["weight"] > 0 else ""
    return f"{numbers['functions'][label]['gradient_scale_at_median']:.2g} with {label}{chosen}"


def moments_alt(analysis: Mapping[str, Any]) -> str:
    """Of the gradient that each stream gets.

    Args:
        analysis: See `start_alt`.
    """
    told = [
        f"{name} with {label} {function['mean_squared_gradient_scale']:.2g}"
        for name, numbers in analysis["streams"].items()
        for label, function in numbers["functions"].items()
    ]
    return f"Dots on a logarithmic axis, the mean squared gradient factor: {', '.join(told)}"
