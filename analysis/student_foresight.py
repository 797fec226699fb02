# SPDX-License-Identifier: Apache-2.0
"""The foresight of every decoupler on held-out windows, beside what is had without one: a row each."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

from student_cells import STUDENTS, Place

from flashwam.report.metrics import read_metrics
from flashwam.run.folder import RunFolder

_GUESSES = {
    "copy": "a copy of the observed frame",
    "other_seed": "the video that the teacher draws from another noise",
    "one_step": "the video that the teacher draws from this noise in one step",
}
_JUDGED, _ERROR, _FOLLOWS = "judged/", "_error_teacher", "_follows_noise"
_LEFT_OUT = ("distill.options.", "distill.", "policy.decoupler.", "policy.")
_NOTE = (
    "- Of a copy's: squared error to what the vision models see in the video that the teacher draws from the noise that"
    " is looked at in all its steps, on windows of held-out episodes, as a share of the error of a copy of the observed"
    " frame. Follows the noise: correlation of what changes in the prediction with what changes in that video where"
    " another noise is looked at."
)


def foresight_table(place: Place) -> str | None:
    """Tells as Markdown how well every decoupler foresees at its end; None where none was measured."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for name in (name for name in STUDENTS if "decouplers" in name):
        for seed in range(10):
            path = RunFolder(place.run(name, seed)).metrics
            if path.is_file() and (told := _last_judged(read_metrics(path))):
                found[name].append(told)
    if not found:
        return None
    first = next(iter(found.values()))
    models = [key.removesuffix(_FOLLOWS) for key in first[0] if key.endswith(_FOLLOWS)]
    columns = [f"{model}, of a copy's" for model in models] + [f"{model} follows the noise" for model in models]
    lines = ["| foresight of | differs in | trainings | " + " | ".join(columns) + " |"]
    lines.append("|---|---|---:|" + "---:|" * len(columns))
    for guess, text in _GUESSES.items():
        shares = [f"{_share(first, model, f'_{guess}'):.2f}" for model in models]
        lines.append("| " + " | ".join((text, "", "", *shares, *["-"] * len(models))) + " |")
    for name, told in found.items():
        shares = [f"{_share(told, model, _ERROR):.2f}" for model in models]
        follows = [f"{mean(one[model + _FOLLOWS] for one in told):.2f}" for model in models]
        row = (name, ", ".join(_differs(place, name)), str(len(told)), *shares, *follows)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, "", _NOTE])


def _last_judged(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The measures of a training's end, without what they begin with; none where decouplers were not followed yet."""
    judged = [row for row in rows if any(key.endswith(_FOLLOWS) for key in row)]
    last: Mapping[str, Any] = judged[-1] if judged else {}
    return {key.removeprefix(_JUDGED): value for key, value in last.items() if key.startswith(_JUDGED)}


def _share(told: list[dict[str, float]], model: str, measure: str) -> float:
    return mean(one[model + measure] / one[f"{model}_copy"] for one in told)


def _differs(place: Place, name: str) -> Iterator[str]:
    """Says what a cell has otherwise than the first one, as short as it is unmistakable."""
    targets = place.recipe(name, 0).distill.options["targets"]
    if targets != "same_seed":
        yield f"targets={targets}"
    for setting in STUDENTS[name].settings:
        for left_out in _LEFT_OUT:
            setting = setting.removeprefix(left_out)
        yield setting
