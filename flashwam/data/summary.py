# SPDX-License-Identifier: Apache-2.0
"""The summary of a conversion: what was kept, what was left out and why, and how the actions are normalised."""

from typing import Any

from flashwam.data.convert import Conversion
from flashwam.data.coverage import coverage_lines, worst

__all__ = ["SUMMARY_FILE", "summary", "summary_lines"]

SUMMARY_FILE = "conversion_report.json"


def summary(done: Conversion) -> dict[str, Any]:
    """Gives the summary as JSON-ready values."""
    given = None
    if done.given is not None:
        given = {"origin": done.given, "controls": [fit.to_dict() for fit in done.given_controls]}
    return {
        "episodes": done.episodes,
        "files_written": done.written,
        "files_kept": done.kept,
        "left_out": dict(done.bad),
        "unlike": list(done.unlike),
        "controls": [fit.to_dict() for fit in done.controls],
        "recipe": given,
    }


def summary_lines(done: Conversion) -> list[str]:
    """Gives the summary as lines of text."""
    out = [f"episodes: {done.episodes} kept, {len(done.bad)} things left out"]
    out += [f"bad: {what}: {reason}" if what not in reason else f"bad: {reason}" for what, reason in done.bad.items()]
    out += [f"warning: {told}" for told in done.unlike]
    if done.controls:
        out += ["quantiles of the data, and the share of rows that clipping changes:", *coverage_lines(done.controls)]
    for fit in done.controls:
        if fit.basis == "minimum and maximum":
            out.append(
                f"control {fit.control}: its 1 % and 99 % quantiles nearly coincide ({fit.q01:.4g}, {fit.q99:.4g}), so "
                "minimum and maximum are taken; if those are faults of a sensor, leave their episode out"
            )
    if done.given is not None:
        foreign = [fit for fit in worst(done.given_controls) if fit.is_foreign]
        out.append(
            f"a training with this recipe takes other quantiles: {done.given}; {len(foreign)} controls do not fit"
        )
        out += [f"  {fit}" for fit in foreign]
        if foreign:
            out.append("  data.norm=data takes those of the data, data.norm=teacher keeps these")
    return out
