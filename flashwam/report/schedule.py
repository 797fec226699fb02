# SPDX-License-Identifier: Apache-2.0
"""Analysis of a recipe's streams before any training, their noise, start and consistency function: numbers only."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch

from flashwam.core.consistency import ConsistencyFunction
from flashwam.core.schedule import Schedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import find_method
from flashwam.distillation.methods.handing_on import Following
from flashwam.distillation.methods.lesson import NEAR
from flashwam.report.advice import LOW_NOISE, STARVED_AT, STARVED_LIMIT, remarks, stream_verdict
from flashwam.report.levels import FEW_SAMPLES, Teach, function_label, known_functions, stream_levels
from flashwam.report.recommend import recommendation
from flashwam.report.together import streams_together
from flashwam.system.errors import InputError

__all__ = ["function_label", "schedule_analysis", "starved_share"]

_CURVE_POINTS = 201
_SHARE_POINTS = 100_001


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


def _stream_numbers(spec: StreamSpec, lesson: Teach, weight: ConsistencyFunction, errs: bool) -> dict[str, Any]:
    schedule = spec.schedule
    sigma = torch.linspace(0, 1, _CURVE_POINTS, dtype=torch.float64)
    functions = known_functions(spec) | {function_label(weight): weight}
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
        **stream_levels(spec, lesson),
        "weighs_as": function_label(weight),
        "errs_by_gradient": errs,
        "regulariser": spec.regulariser,
        "anchors": spec.anchors,
        "teacher_substeps": spec.teacher_substeps,
        "jump_levels": jumps,
        "steps": spec.steps,
        "teacher_steps": spec.teacher_steps,
        "functions": {label: _function_numbers(f, schedule, sigma) for label, f in functions.items()},
    }


def schedule_analysis(
    streams: Mapping[str, StreamSpec],
    *,
    sampler: Literal["own", "euler"] = "own",
    method: str = "consistency",
    options: Mapping[str, Any] | None = None,
    following: Following | None = None,
) -> dict[str, Any]:
    """Says per stream where its noise is, what its student starts from and is taught there, and what to choose.

    Two rules. The start: over the teacher's weights f should be the data, at every level of the student's sampler, and
    a share of at least 5 % of the training samples should lie near each. The gradient: that of a consistency loss
    scales point by point with |b(sigma)| (Flash-WAM, arXiv 2606.05254, Proposition 1), so a function starves a stream
    whose noise lies where its |b| vanishes; it reaches a stream if at most 5 % of the draws get less than a tenth of
    the gradient `linear` would give them.

    Args:
        streams: Stream name -> spec, as a recipe has them.
        sampler: "own" or "euler": how the student would be sampled; a stream whose function is not `linear` gets a
            warning under "euler".
        method: The distillation's, as a recipe names it.
        options: Its options.
        following: How fast its targets follow the student; not looked at if None.

    Returns:
        Plain values, ready for JSON: `streams[name]` (density and |b| curves over `sigma`, median, moments, `levels` of
        the sampler, `weighs_as`, the function whose |b| the loss carries, verdict), `method`, `reference` (the noisiest
        stream, that lcm serves best), `together` (whether the streams need different functions; None for a single
        stream), `recommended` (a method, see `flashwam.report.recommend`), `warnings`, `notes`, `rule`.

    Raises:
        ValueError: without streams, or for an unknown sampler or method.
    """
    if not streams:
        raise InputError("a schedule analysis needs at least one stream; got none")
    if sampler not in ("own", "euler"):
        raise InputError(f'sampler must be "own" or "euler"; got {sampler!r}')
    options = dict(options or {})
    kind = find_method(method)
    lesson = partial(kind.lesson, options=options)
    weighs_as, errs = partial(kind.weighs_as, options=options), partial(kind.errs_by_gradient, options=options)
    numbers = {name: _stream_numbers(spec, lesson, weighs_as(spec), errs(spec)) for name, spec in streams.items()}
    reference = max(numbers, key=lambda name: numbers[name]["median"])
    for name, values in numbers.items():
        values["verdict"] = stream_verdict(name, values, reference, numbers[reference])
    if following is not None:
        for level in (level for values in numbers.values() for level in values["levels"] if "hops" in level):
            level["arrives"] = following.arrived(level["hops"])
    warnings, notes = remarks(numbers, sampler, following)
    return {
        "rule": {
            "low_noise": LOW_NOISE,
            "starved_at": STARVED_AT,
            "starved_limit": STARVED_LIMIT,
            "near": NEAR,
            "few_samples": FEW_SAMPLES,
        },
        "method": method,
        "reference": reference,
        "streams": numbers,
        "together": streams_together(streams, numbers) if len(numbers) > 1 else None,
        "recommended": recommendation(streams, method, options),
        "warnings": warnings,
        "notes": notes,
    }
