# SPDX-License-Identifier: Apache-2.0
"""Ways of students beside their teacher's, scene by scene: whether they lean."""

from collections.abc import Iterator, Sequence
from typing import Any

from one_step_cells import Place

from flashwam.core.pairing import Outcomes, pair_outcomes, paired_share_difference
from flashwam.core.sampler_name import sampler_name
from flashwam.report.results import read_evaluations
from flashwam.run.evaluation import Evaluation
from flashwam.system.files import write_whole

LEFT, NONE = 0, -1
HEADER = (
    "Two-way tasks, each student against its teacher from the same noise in the same scenes, where both take a way. "
    "Left: share of these episodes; points: the student's less the teacher's, with a 95 % interval over trainings and "
    "scenes.\n\n"
    "| student | trainings | episodes | same way | left where the teacher goes right | right where it goes left | "
    "left | the teacher's | points |\n|---|" + "---:|" * 8
)


def ways(evaluations: Sequence[Evaluation]) -> Outcomes:
    """Training -> task and scene -> whether the hand went left; episodes without a way are left out."""
    found: dict[int | None, dict[tuple[str, tuple[int, int]], bool]] = {}
    for one in evaluations:
        training = None if one.kind == "teacher" else one.training_seed
        for task, numbers in one.tasks.items():
            scenes = numbers.scenes if numbers.taken else None
            for scene, way in zip(scenes or (), numbers.taken or (), strict=True):
                if way != NONE:
                    found.setdefault(training, {})[task, (one.seed, scene)] = way == LEFT
    return found


def leaning(evaluations: Sequence[Evaluation]) -> Iterator[dict[str, Any]]:
    """Every student at every number of steps, drawn by its own sampler from unit noise."""
    own = sampler_name()
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for one in evaluations:
        if one.sampler == own and one.tasks:
            groups.setdefault((one.run, one.setting), []).append(one)
    full = (own for (_, steps), own in groups.items() if own[0].kind == "teacher" and steps == "full")
    teacher = ways(next(full, []))
    students = {name: group for name, group in groups.items() if group[0].kind == "student"}
    for (run, steps), group in students.items():
        pairs = pair_outcomes(ways(group), teacher, fixed=True)
        if pairs:
            both = [pair for episodes in pairs.trainings.values() for pair in episodes.values()]
            yield {
                "student": f"{run} {steps}",
                "same": sum(ours == theirs for ours, theirs in both) / len(both),
                "left_for_right": both.count((True, False)),
                "right_for_left": both.count((False, True)),
                "left": sum(ours for ours, _ in both) / len(both),
                "teacher_left": sum(theirs for _, theirs in both) / len(both),
                **paired_share_difference(pairs).to_json(),
            }


def line(told: dict[str, Any]) -> str:
    """A row of the table."""
    points = f"{100 * told['value']:+.1f} [{100 * told['low']:+.1f} to {100 * told['high']:+.1f}]"
    counts = f"{told['trainings']} | {told['episodes']:,} | {told['same']:.3f}"
    leans = f"{told['left_for_right']} | {told['right_for_left']}"
    return f"| {told['student']} | {counts} | {leans} | {told['left']:.3f} | {told['teacher_left']:.3f} | {points} |"


def write_ways(place: Place) -> None:
    """Writes `ways.md` beside the comparison."""
    found = list(leaning([one for run in place.evaluated(guided=False) for one in read_evaluations(run)]))
    if found:
        write_whole(place.out / "comparison" / "ways.md", "\n".join([HEADER, *map(line, found)]) + "\n")
