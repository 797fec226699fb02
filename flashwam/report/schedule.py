# SPDX-License-Identifier: Apache-2.0
"""Analysis of a stream's noise and consistency function before any training: numbers only."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from flashwam.core.consistency import LCM, ConsistencyFunction, Linear
from flashwam.core.schedule import Schedule
from flashwam.core.streams import StreamSpec
from flashwam.report.together import streams_together, times
from flashwam.system.errors import InputError

__all__ = ["LOW_NOISE", "STARVED_AT", "STARVED_LIMIT", "function_label", "schedule_analysis", "starved_share"]

LOW_NOISE = 0.1
"""Levels below count as low noise."""
STARVED_AT = 0.1
"""A draw is starved where |b| is below this share of `linear`'s."""
STARVED_LIMIT = 0.05
"""A function fits a stream if at most this share of its draws is starved."""
STRONG_RATIO = 5.0
"""From this ratio of mean squared factors on, the mean alone decides."""

_CURVE_POINTS = 201
_SHARE_POINTS = 100_001


def function_label(function: ConsistencyFunction) -> str:
    """Short name, with parameters where they are not the defaults: "lcm", "lcm(sigma_data=0.2)"."""
    parameters = {key: value for key, value in function.config.items() if key != "name"}
    defaults = {"lcm": LCM().config}.get(function.name, {})
    changed = [f"{key}={value:g}" for key, value in parameters.items() if defaults.get(key) != value]
    name = function.name.rpartition(":")[2]
    return f"{name}({', '.join(changed)})" if changed else name


def starved_share(function: ConsistencyFunction, schedule: Schedule) -> float:
    """P(|b(sigma)| < 0.1 sigma): draws that get less than a tenth of the gradient `linear` would give them."""
    u = (torch.arange(_SHARE_POINTS, dtype=torch.float64) + 0.5) / _SHARE_POINTS
    sigma = schedule.sigma(u)
    return float((function.gradient_scale(sigma) < STARVED_AT * sigma).double().mean())


def _function_numbers(function: ConsistencyFunction, schedule: Schedule, sigma: torch.Tensor) -> dict[str, Any]:
    one = torch.ones((), dtype=torch.float64)
    at = torch.tensor([schedule.median, LOW_NOISE], dtype=torch.float64)
    at_median, at_low = function.gradient_scale(at).tolist()
    extra_state, extra_velocity = function.sampler_mismatch()
    return {
        "config": function.config,
        "gradient_scale": function.gradient_scale(sigma).tolist(),
        "mean_gradient_scale": function.expectation(schedule, power=1),
        "mean_squared_gradient_scale": function.expectation(schedule, power=2),
        "order_at_zero": function.order_at_zero(),
        "gradient_scale_at_median": at_median,
        "gradient_scale_at_low_noise": at_low,
        "median_over_low_noise": at_median / at_low if at_low else None,
        "starved_share": starved_share(function, schedule),
        "at_pure_noise": {
            "a": float(function.a(one)),
            "b": float(function.b(one)),
            "euler_a": 1.0,
            "euler_b": -1.0,
            "euler_extra_state": extra_state,
            "euler_extra_velocity": extra_velocity,
        },
    }


def _stream_numbers(spec: StreamSpec) -> dict[str, Any]:
    schedule = spec.schedule
    sigma = torch.linspace(0, 1, _CURVE_POINTS, dtype=torch.float64)
    functions = {function_label(f): f for f in (LCM(), Linear(), spec.consistency)}
    grid = schedule.training_grid()
    index, jumps = torch.zeros((), dtype=torch.int64), [float(grid[0])]
    while int(index) < len(grid) - 1 and len(jumps) <= 8:
        index = schedule.jump(index, spec.anchors)
        jumps.append(float(grid[index]))
    return {
        "schedule": schedule.config,
        "label": schedule.label,
        "median": schedule.median,
        "quantiles": {str(q): float(schedule.quantile(q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        "mass_below_low_noise": schedule.mass_below(LOW_NOISE),
        "sigma": sigma.tolist(),
        "density": schedule.density(sigma).tolist(),
        "own": function_label(spec.consistency),
        "weight": spec.weight,
        "regulariser": spec.regulariser,
        "anchors": spec.anchors,
        "teacher_substeps": spec.teacher_substeps,
        "jump_levels": jumps,
        "steps": spec.steps,
        "teacher_steps": spec.teacher_steps,
        "functions": {label: _function_numbers(f, schedule, sigma) for label, f in functions.items()},
    }


def _verdict(
    name: str, numbers: Mapping[str, Any], reference: str, reference_numbers: Mapping[str, Any]
) -> dict[str, Any]:
    lcm, linear = numbers["functions"]["lcm"], numbers["functions"]["linear"]
    less_than_reference = (
        reference_numbers["functions"]["lcm"]["mean_squared_gradient_scale"] / lcm["mean_squared_gradient_scale"]
    )
    less_than_linear = linear["mean_squared_gradient_scale"] / lcm["mean_squared_gradient_scale"]
    starved = lcm["starved_share"]
    verdict: dict[str, Any] = {
        "lcm_starved_share": starved,
        "lcm_times_less_than_linear": less_than_linear,
        "lcm_times_less_than_reference": less_than_reference,
        "reference": reference,
    }
    if starved <= STARVED_LIMIT:
        reason = (
            f"lcm or linear. Half of the draws lie above sigma {numbers['median']:.2f}, and only "
            f"{starved:.1%} of all draws are so clean that lcm passes less than a tenth of linear's gradient. lcm "
            f"is the published choice for a noisy stream; linear passes {times(less_than_linear)} more on "
            "average (E b^2) and needs no sampler of its own."
        )
        return verdict | {
            "choice": "either",
            "accepted": ["lcm", "linear"],
            "strength": "free",
            "reason": reason,
        }
    versus = (
        "" if name == reference else f"lcm would give {times(less_than_reference)} less gradient than {reference} gets"
    )
    low = (
        f"{starved:.0%} of the draws are so clean that lcm passes less than a tenth of linear's gradient; "
        f"over all draws it passes {times(less_than_linear)} less"
    )
    if name != reference and less_than_reference >= STRONG_RATIO:
        strength = "strong"
        reason = f"linear; {versus} (E b^2, lcm on both). {low[0].upper()}{low[1:]}."
    elif name != reference:
        strength = "weak"
        reason = (
            f"linear, for a modest reason: {versus} (E b^2, lcm on both), which alone does not explain a "
            f"collapse. What counts is the low end: {low}. No learning rate feeds the starved "
            "draws. Expect lcm to learn later here rather than never; compare both recipes before you trust either."
        )
    else:
        strength = "strong" if less_than_linear >= STRONG_RATIO else "weak"
        reason = f"linear; {low}."
    return verdict | {"choice": "linear", "accepted": ["linear"], "strength": strength, "reason": reason}


def _remarks(streams: Mapping[str, dict[str, Any]], sampler: str) -> list[list[str]]:
    warnings: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    for name, numbers in streams.items():
        own = numbers["own"]
        function = numbers["functions"][own]
        if numbers["weight"] == 0:
            text = "weight 0, so this stream is not distilled; it changes only through weights shared with the others"
            notes.setdefault(text + (" and its regulariser." if numbers["regulariser"] else "."), []).append(name)
            continue
        if function["starved_share"] > STARVED_LIMIT:
            text = (
                f"this recipe uses {own}, the analysis says {numbers['verdict']['choice']}: "
                f"{function['starved_share']:.0%} of the draws get less than a tenth of linear's gradient."
            )
            warnings.setdefault(text, []).append(name)
        noise = function["at_pure_noise"]
        if max(abs(noise["euler_extra_state"]), abs(noise["euler_extra_velocity"])) > 1e-6:
            text = (
                f"trained with {own}, f at sigma = 1 is {noise['a']:.3f} x {noise['b']:+.3f} v; plain Euler "
                f"returns x - v, which adds {noise['euler_extra_state']:.3f} x "
                f"{noise['euler_extra_velocity']:+.3f} v. "
            )
            if sampler == "euler":
                text += "This run would sample it with plain Euler: use the stream's own function."
                warnings.setdefault(text, []).append(name)
            else:
                text += "Sample this student with its own function (flashwam does), never with plain Euler."
                notes.setdefault(text, []).append(name)
        if numbers["schedule"]["name"] == "vp":
            text = (
                "the network predicts v of a variance-preserving path, and the velocity is (alpha + s) v plus a "
                "multiple of x. So the factor that reaches the network is |b| (alpha + s), between 1 and 1.41 times "
                "|b|, for every function alike: ratios between functions at one level stay as they are."
            )
            notes.setdefault(text, []).append(name)
        if numbers["teacher_substeps"] == 1 and numbers["anchors"] <= 4:
            text = (
                f"the teacher crosses 1/{numbers['anchors']} of the grid in a single Euler step, so the "
                "target itself is biased; teacher_substeps=4 cut the error 2.5 times in a closed-form toy."
            )
            notes.setdefault(text, []).append(name)
    return [[f"{', '.join(names)}: {text}" for text, names in found.items()] for found in (warnings, notes)]


def schedule_analysis(streams: Mapping[str, StreamSpec], *, sampler: Literal["own", "euler"] = "own") -> dict[str, Any]:
    """Says per stream where its noise is, what each consistency function does there, and which one to choose.

    The gradient of a consistency loss scales point by point with |b(sigma)| (Flash-WAM, arXiv 2606.05254,
    Proposition 1), so a function starves a stream whose noise lies where its |b| vanishes. The rule: a function fits if
    at most 5 % of the stream's draws get less than a tenth of the gradient `linear` would give them.

    Args:
        streams: Stream name -> spec, as a recipe has them.
        sampler: "own" or "euler": how the student would be sampled; a stream whose function is not `linear` gets a
            warning under "euler".

    Returns:
        Plain values, ready for JSON: `streams[name]` (density and |b| curves over `sigma`, median, moments, verdict),
        `reference` (the noisiest stream, that lcm serves best), `together` (whether the streams need different
        functions; None for a single stream), `warnings`, `notes`, `rule`.

    Raises:
        ValueError: without streams, or for an unknown sampler.
    """
    if not streams:
        raise InputError("a schedule analysis needs at least one stream; got none")
    if sampler not in ("own", "euler"):
        raise InputError(f'sampler must be "own" or "euler"; got {sampler!r}')
    numbers = {name: _stream_numbers(spec) for name, spec in streams.items()}
    reference = max(numbers, key=lambda name: numbers[name]["median"])
    for name, values in numbers.items():
        values["verdict"] = _verdict(name, values, reference, numbers[reference])
    warnings, notes = _remarks(numbers, sampler)
    return {
        "rule": {"low_noise": LOW_NOISE, "starved_at": STARVED_AT, "starved_limit": STARVED_LIMIT},
        "reference": reference,
        "streams": numbers,
        "together": streams_together(streams, numbers) if len(numbers) > 1 else None,
        "warnings": warnings,
        "notes": notes,
    }
