# SPDX-License-Identifier: Apache-2.0
"""The verdict on a stream's consistency function, and what a recipe is warned of, in sentences."""

from collections.abc import Mapping
from typing import Any

from flashwam.distillation.methods.handing_on import Following
from flashwam.distillation.methods.lesson import NEAR
from flashwam.report.levels import few_samples, mix_text, scarce_levels
from flashwam.report.together import times

__all__ = ["LOW_NOISE", "STARVED_AT", "STARVED_LIMIT", "remarks", "stream_verdict"]

LOW_NOISE = 0.1
"""Levels below count as low noise."""
STARVED_AT = 0.1
"""A draw is starved where |b| is below this share of `linear`'s."""
STARVED_LIMIT = 0.05
"""A function reaches a stream if at most this share of its draws is starved."""
STRONG_RATIO = 5.0
"""From this ratio of mean squared factors on, the mean alone decides."""
_SAME = 1e-9
_SINGLE = "the teacher's single step"


def stream_verdict(
    name: str, numbers: Mapping[str, Any], reference: str, reference_numbers: Mapping[str, Any]
) -> dict[str, Any]:
    """The choice for one stream: `linear`, by its start, and for a stream that lcm starves by its gradient too.

    Args:
        name: The stream's.
        numbers: Its numbers, as `schedule_analysis` makes them.
        reference: The noisiest stream.
        reference_numbers: That one's.

    Returns:
        Plain values: `choice`; `accepted`, the functions whose gradient reaches the stream's draws; `reason`; and the
        ratios that it is told from.
    """
    lcm, linear = numbers["functions"]["lcm"], numbers["functions"]["linear"]
    less_than_reference = (
        reference_numbers["functions"]["lcm"]["mean_squared_gradient_scale"] / lcm["mean_squared_gradient_scale"]
    )
    less_than_linear = linear["mean_squared_gradient_scale"] / lcm["mean_squared_gradient_scale"]
    starved = lcm["starved_share"]
    verdict: dict[str, Any] = {
        "choice": "linear",
        "lcm_starved_share": starved,
        "lcm_times_less_than_linear": less_than_linear,
        "lcm_times_less_than_reference": less_than_reference,
        "reference": reference,
    }
    if starved <= STARVED_LIMIT:
        reason = (
            f"linear, for its start. {_start(numbers)} The gradient decides nothing here: lcm's reaches the draws, of "
            f"which only {starved:.1%} are so clean that it passes less than a tenth of linear's, and lcm is the "
            f"published choice for a noisy stream. linear passes {times(less_than_linear)} more on average (E b^2) and "
            "needs no sampler of its own."
        )
        return verdict | {"accepted": ["lcm", "linear"], "reason": reason}
    noisier = name != reference and less_than_reference > 1 + _SAME
    versus = f"lcm would give {times(less_than_reference)} less gradient than {reference} gets" if noisier else ""
    low = (
        f"{starved:.0%} of the draws are so clean that lcm passes less than a tenth of linear's gradient; "
        f"over all draws it passes {times(less_than_linear)} less"
    )
    if noisier and less_than_reference >= STRONG_RATIO:
        reason = f"linear; {versus} (E b^2, lcm on both). {low[0].upper()}{low[1:]}."
    elif noisier:
        reason = (
            f"linear, by its gradient for a modest reason: {versus} (E b^2, lcm on both), which alone does not explain "
            f"a collapse. What counts is the low end: {low}. No learning rate feeds the starved draws."
        )
    else:
        reason = f"linear; {low}."
    reason = f"{reason} And its start is right. {_start(numbers)}"
    return verdict | {"accepted": ["linear"], "reason": reason}


def _start(numbers: Mapping[str, Any]) -> str:
    first = numbers["levels"][0]
    return (
        f"Over the teacher's weights, where training starts, lcm answers {mix_text(first['start']['lcm'])} at sigma = "
        f"{first['sigma']:.2g} where linear answers x0. A network can learn either: they differ in where they start "
        "and in how much its answer counts at each level."
    )


def _late(level: Mapping[str, Any], own: str, following: Following) -> str | None:
    text = following.warning(level["hops"], level["sigma"]) if "hops" in level else None
    start = mix_text(level["start"][own])
    return text and f"{text} Until then it is on its way from its start, {_SINGLE if start == 'x0' else start}."


def remarks(
    streams: Mapping[str, Mapping[str, Any]], sampler: str, following: Following | None = None
) -> tuple[list[str], list[str]]:
    """Gives the warnings and the notes on all streams; those that say the same share a sentence.

    Args:
        streams: Stream name -> numbers with their verdict.
        sampler: "own" or "euler".
        following: How fast targets follow the student.
    """
    warnings: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    for name, numbers in streams.items():
        own, weight = numbers["own"], numbers["weighs_as"]
        function, starved = numbers["functions"][own], numbers["functions"][weight]["starved_share"]
        if numbers["weight"] == 0:
            text = "weight 0, so this stream is not distilled; it changes only through weights shared with the others"
            notes.setdefault(text + (" and its regulariser." if numbers["regulariser"] else "."), []).append(name)
            continue
        for level in scarce_levels(numbers):
            warnings.setdefault(few_samples(level, NEAR), []).append(name)
        if following is not None:
            for late in filter(None, (_late(level, own, following) for level in numbers["levels"])):
                warnings.setdefault(late, []).append(name)
        if starved > STARVED_LIMIT:
            used = own if weight == own else f"{own} with the gradient weight of {weight}"
            text = (
                f"this recipe uses {used}, the analysis says {numbers['verdict']['choice']}: "
                f"{starved:.0%} of the draws get less than a tenth of linear's gradient."
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
        # A target that is read off at 0 is the end of a path of the teacher's, of steps of its own.
        jumps = numbers["levels"][0].get("jump_end", 0.0) > 0
        if jumps and numbers["teacher_substeps"] == 1 and numbers["anchors"] <= 4:
            text = (
                f"the teacher crosses 1/{numbers['anchors']} of the grid in a single Euler step, so the "
                "target itself is biased; teacher_substeps=4 cut the error 2.5 times in a closed-form toy."
            )
            notes.setdefault(text, []).append(name)
    told, noted = ([f"{', '.join(names)}: {text}" for text, names in found.items()] for found in (warnings, notes))
    return told, noted
