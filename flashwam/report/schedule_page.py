# SPDX-License-Identifier: Apache-2.0
"""The sections of a schedule analysis' page, for `flashwam analyze` and for the demo."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.report.levels import percent
from flashwam.report.page import Callout, Figure, Section, Table
from flashwam.report.record import read_record
from flashwam.report.record_page import record_section, record_sentence
from flashwam.report.schedule_alts import gradient_scale_alt, moments_alt
from flashwam.report.schedule_figures import draw_gradient_scale, draw_measured_gradients, draw_moments
from flashwam.report.standing_page import method_section, standing_section

__all__ = ["schedule_sections"]


def schedule_sections(analysis: Mapping[str, Any], folder: Path, *, why: str = "") -> list[Section]:
    """Draws the figures into `folder` and returns the sections of the page, for this page and for the demo's.

    Args:
        analysis: Result of `flashwam.report.schedule.schedule_analysis`.
        folder: For the PNGs.
        why: A sentence that names the recipe on a page that holds more than its analysis.
    """
    streams = analysis["streams"]
    scale = draw_gradient_scale(analysis, folder / "gradient_scale.png")
    moments = draw_moments(analysis, folder / "gradient_moments.png")
    sections = [
        _choice(analysis, why),
        _idea(),
        standing_section(analysis, folder),
        *([method_section(analysis)] if analysis["recommended"] else []),
        Section(
            heading="Where the noise lies, and what gets through",
            paragraphs=(
                _schedules(streams),
                "The upper picture shows |b(sigma)|, the factor that every gradient carries. Both functions "
                "vanish at sigma = 0, as they must. But `linear` does so in proportion to sigma and `lcm` in "
                "proportion to sigma squared: on nearly clean samples it lets almost nothing through. "
                "Whether that hurts depends on how many of a stream's draws are nearly clean.",
            ),
            figures=(
                Figure(
                    path=scale,
                    caption="Above: gradient factor of each function (logarithmic). Below: density of each "
                    "stream's noise levels.",
                    alt=gradient_scale_alt(analysis),
                ),
            ),
        ),
        Section(
            heading="The gradient each stream gets",
            paragraphs=(
                "Weigh the curve with the draws and one number per stream and function is left: E b^2, the "
                "mean squared gradient factor. Streams that share a network also share its weights, so a "
                "stream with a small number is outvoted by the others.",
            ),
            figures=(
                Figure(
                    path=moments,
                    caption="Filled: what this recipe uses. Hollow: what it could use.",
                    alt=moments_alt(analysis),
                ),
            ),
            tables=(_function_table(streams),),
        ),
        _sampler(streams),
    ]
    if analysis.get("measured"):
        sections.append(_measured(analysis, folder))
    return [*sections, _limits(analysis), record_section(read_record())]


def _choice(analysis: Mapping[str, Any], why: str) -> Section:
    reasons: dict[str, list[str]] = {}
    for name, numbers in analysis["streams"].items():
        reasons.setdefault(numbers["verdict"]["reason"], []).append(name)
    callouts = [Callout(title=" and ".join(names), text=text, kind="verdict") for text, names in reasons.items()]
    if analysis["together"]:
        together = analysis["together"]["reason"]
        callouts.append(Callout(title="Do the streams need different functions?", text=together, kind="verdict"))
    if analysis["recommended"]:
        callouts.append(Callout(title="Method", text=analysis["recommended"]["reason"], kind="verdict"))
    sentence = record_sentence(read_record())
    callouts.append(Callout(title="How often such numbers were right", text=sentence))
    callouts += [Callout(title="Warning", text=text, kind="warning") for text in analysis["warnings"]]
    rows = [
        (
            name,
            n["label"],
            f"{n['median']:.3f}",
            f"{n['mass_below_low_noise']:.1%}",
            percent(n["levels"][0]["near"]) if "near" in n["levels"][0] else "-",
            n["verdict"]["choice"],
            _chosen(n),
        )
        for name, n in analysis["streams"].items()
    ]
    table = Table(
        columns=("stream", "schedule", "median sigma", "draws below 0.1", "samples near 1", "advice", "this recipe"),
        rows=rows,
    )
    return Section(
        heading="What to choose, by the formulas",
        paragraphs=(why,) if why else (),
        callouts=callouts,
        tables=(table,),
        notes=analysis["notes"],
    )


def _chosen(numbers: Mapping[str, Any]) -> str:
    own, weight = numbers["own"], numbers["weighs_as"]
    if numbers["weight"] == 0:
        return "not distilled"
    return own if own == weight else f"{own}, weight of {weight}"


def _schedules(streams: Mapping[str, Any]) -> str:
    kinds = {numbers["schedule"]["name"] for numbers in streams.values()}
    sentences = ["Each stream draws its noise levels sigma from its own schedule."]
    if "shift" in kinds:
        sentences.append("A shift above 1 pushes the draws towards pure noise, a shift below 1 towards clean data.")
    if "vp" in kinds:
        sentences.append(
            "A variance-preserving teacher (vp) draws an index of its table; the state alpha x0 + s eps there is that "
            "of level sigma = s / (alpha + s) up to a factor, and a greater SNR shift pushes the draws towards noise."
        )
    return " ".join([*sentences, "The lower picture shows where the draws fall."])


def _idea() -> Section:
    return Section(
        heading="What is being decided",
        paragraphs=(
            "A world-action model draws future video and robot actions from noise, in many small steps with "
            "one network. **Consistency distillation** trains a student to jump from any noise level "
            "straight to the clean result, by asking that two points of the same path of the teacher give "
            "the same answer.",
            "That answer is f = a(sigma) x + b(sigma) v, where x is the noisy input and v what the network "
            "says. The pair (a, b) is the **consistency function**. Any pair with a(0) = 1 and b(0) = 0 is "
            "allowed: `lcm` and `linear` (the plain clean estimate, a = 1 and b = -sigma) are two of them. "
            "All have the same perfect solution, but they do not learn equally well: they begin with different "
            "answers, and every gradient that reaches the network is multiplied by b(sigma).",
        ),
    )


def _function_table(streams: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    own = set()
    for name, numbers in streams.items():
        for label, f in numbers["functions"].items():
            if label == numbers["weighs_as"] and numbers["weight"] > 0:
                own.add(len(rows))
            rows.append(
                (
                    f"{name}, {label}",
                    f"{f['mean_gradient_scale']:.3g}",
                    f"{f['mean_squared_gradient_scale']:.3g}",
                    f"{f['gradient_scale_at_median']:.3g}",
                    f"{f['gradient_scale_at_low_noise']:.3g}",
                    "-" if f["order_at_zero"] is None else f"{f['order_at_zero']:.2f}",
                    f"{f['starved_share']:.1%}",
                )
            )
    return Table(
        columns=("stream, function", "E |b|", "E b^2", "|b| at median", "|b| at 0.1", "order at 0", "starved"),
        rows=rows,
        emphasised=frozenset(own),
        caption="Bold: this recipe. Order: |b| falls like sigma to this power. Starved: share of draws that "
        "get less than a tenth of the gradient linear would give them.",
    )


def _sampler(streams: Mapping[str, Any]) -> Section:
    rows = []
    for name, numbers in streams.items():
        for label, f in numbers["functions"].items():
            at = f["at_pure_noise"]
            rows.append(
                (
                    f"{name}, {label}",
                    f"{at['a']:.3f} x {at['b']:+.3f} v",
                    "1.000 x -1.000 v",
                    "the same"
                    if abs(at["euler_extra_state"]) + abs(at["euler_extra_velocity"]) < 1e-9
                    else f"{at['euler_extra_state']:+.3f} x {at['euler_extra_velocity']:+.3f} v",
                )
            )
    return Section(
        heading="Sample as you trained",
        paragraphs=(
            "The student learns f, so f is what must be returned at inference. A plain Euler step returns x - sigma v, "
            "which is f for `linear` only. For `lcm` the two differ most at sigma = 1, exactly where a one-step "
            "student works: in a closed-form toy an `lcm` stream stepped with Euler landed ten times further from "
            "the data than with its own f (0.67 against 0.07), which was as good as `linear`. flashwam stores "
            "the function in the student's folder and samples with it.",
        ),
        tables=(
            Table(
                columns=("stream, function", "f at sigma = 1", "plain Euler", "Euler adds"),
                rows=rows,
                caption="x is the noise, v the network's velocity.",
            ),
        ),
    )


def _measured(analysis: Mapping[str, Any], folder: Path) -> Section:
    measured = analysis["measured"]
    figure = draw_measured_gradients(analysis, measured, folder / "measured_gradients.png")
    fits = "; ".join(
        f"{name}: measured is {bins['scale']:.2g} |b|, within a factor {10 ** bins['log10_deviation']:.2f} "
        f"({len(bins['sigma'])} bins, {bins['steps']} logged steps)"
        for name, bins in measured.items()
    )
    paragraphs = [
        "The dots are the gradient of the run's own loss with respect to the predicted velocity, root mean square per "
        "sigma bin; the line is |b|."
    ]
    matched = [name for name in measured if not analysis["streams"][name]["errs_by_gradient"]]
    if len(matched) < len(measured):
        paragraphs.append(
            "A pseudo-Huber loss passes at most |b| and comes close where the student's error is well above its "
            "constant c, so dots below the line are levels where the student already agrees with its target."
        )
    if matched:
        paragraphs.append(
            f"{' and '.join(matched)}: a loss that matches distributions makes every sample's gradient one of the same "
            "mean size, times |b|, whether or not the student agrees with its teacher. So the dots' shape tells of "
            "|b|, and their height tells nothing."
        )
    return Section(
        heading="Measured against theory",
        paragraphs=(*paragraphs, f"{fits[0].upper()}{fits[1:]}."),
        figures=(
            Figure(
                path=figure,
                caption="Measured gradient per sigma bin and the theoretical factor.",
                alt=f"Dots of the measured gradient over sigma beside the line |b|, a panel a stream; {fits}",
            ),
        ),
    )


def _limits(analysis: Mapping[str, Any]) -> Section:
    rule = analysis["rule"]
    jumps = "; ".join(
        f"{name}: {' to '.join(f'{level:.2f}' for level in n['jump_levels'])}"
        + (" and on" if n["jump_levels"][-1] > 0.02 else "")
        for name, n in analysis["streams"].items()
    )
    return Section(
        heading="How the verdict is reached, and what it cannot tell",
        paragraphs=(
            f"A draw counts as starved where |b| is below {rule['starved_at']:g} of linear's. A function reaches "
            f"a stream if at most {rule['starved_limit']:.0%} of its draws are starved. The ratio quoted "
            f"against the noisiest stream ({analysis['reference']}) is that of E b^2 with lcm on both.",
            "This is arithmetic on starts and gradients, not a forecast of success. An optimiser that normalises "
            "gradients, such as Adam, hides a stream's overall scale but not the spread inside it, nor the "
            "balance between streams that share weights. A long enough training can close the gap. So train "
            "both and drive them: `flashwam demo` does it in minutes, with `--preset pilot` along the training too.",
            f"Levels visited by the jumps of one path, from noise to data: {jumps}. Fewer, longer jumps carry "
            "errors over fewer hops but need more teacher steps each.",
        ),
    )
