# SPDX-License-Identifier: Apache-2.0
"""A stream at the levels where its student will be sampled: the start, the training there, the way to the data."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

from flashwam.core.consistency import LCM, ConsistencyFunction, Linear
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods.lesson import Lesson

__all__ = [
    "FEW_SAMPLES",
    "Teach",
    "few_samples",
    "function_label",
    "known_functions",
    "mix_text",
    "percent",
    "scarce_levels",
    "stream_levels",
]

Teach: TypeAlias = Callable[[StreamSpec, float], Lesson | None]
"""(stream, level) -> its training there, None where the method does not say."""

FEW_SAMPLES = 0.05
"""With a smaller share of its samples near a level of the sampler, a stream is hardly trained where it is used."""


def function_label(function: ConsistencyFunction) -> str:
    """Short name, with parameters where they are not the defaults: "lcm", "lcm(sigma_data=0.2)"."""
    parameters = {key: value for key, value in function.config.items() if key != "name"}
    defaults = {"lcm": LCM().config}.get(function.name, {})
    changed = [f"{key}={_told(value)}" for key, value in parameters.items() if defaults.get(key) != value]
    name = function.name.rpartition(":")[2]
    return f"{name}({', '.join(changed)})" if changed else name


def _told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def known_functions(spec: StreamSpec) -> dict[str, ConsistencyFunction]:
    """Label -> consistency function: those that everybody has, and the stream's own."""
    return {function_label(f): f for f in (LCM(), Linear(), spec.consistency)}


def stream_levels(spec: StreamSpec, lesson: Teach) -> dict[str, Any]:
    """Gives the numbers of every level that the student's sampler visits, from noise to data.

    Args:
        spec: The stream; its `steps` say where its sampler stands.
        lesson: Of the recipe's method.

    Returns:
        Plain values: `own`, the label of the stream's function; its `weight`; and `levels`, each with `sigma`; `start`,
        label -> [p, q] of f = p x0 + q eps over the teacher's weights; `bias`, label -> root mean square of f - x0; and
        the fields of a `Lesson`, or none of them.
    """
    functions, levels = known_functions(spec), []
    for level in spec.schedule.sampling_grid(spec.steps)[:-1]:
        taught = lesson(spec, float(level))
        levels.append(
            {
                "sigma": float(level),
                "start": {label: [float(share) for share in f.mix(level)] for label, f in functions.items()},
                "bias": {label: float(f.start_bias(level)) for label, f in functions.items()},
                **({} if taught is None else asdict(taught)),
            }
        )
    return {"own": function_label(spec.consistency), "weight": spec.weight, "levels": levels}


def scarce_levels(numbers: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The levels of a distilled stream near which fewer than `FEW_SAMPLES` of its samples lie."""
    if numbers["weight"] == 0:
        return []
    return [level for level in numbers["levels"] if level.get("near", 1.0) < FEW_SAMPLES]


def few_samples(level: Mapping[str, Any], near: float) -> str:
    """The warning of such a level."""
    return (
        f"only {percent(level['near'])} of the training samples lie within {near:g} of sigma = {level['sigma']:.2g}, "
        f"where the sampler stands (fewer than {percent(FEW_SAMPLES)}): the student is used where it is hardly "
        "trained. No consistency function mends that; a method that trains at the sampler's own levels does."
    )


def mix_text(mix: tuple[float, float]) -> str:
    """(0.447, 0.2) -> "0.45 x0 + 0.20 eps"; "x0" where f is the data."""
    clean, noise = mix
    if abs(clean - 1) < 1e-9 and abs(noise) < 1e-9:
        return "x0"
    return f"{clean:.2f} x0 {'-' if noise < 0 else '+'} {abs(noise):.2f} eps"


def percent(share: float) -> str:
    """Two digits: "36%", "2.2%", "0.55%"."""
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.2g}%"
