# SPDX-License-Identifier: Apache-2.0
"""Students beside what they have to beat: their own teacher in few steps, without any distillation."""

from collections.abc import Sequence

from flashwam.core.sampler_name import sampler_suffix
from flashwam.report.against import compare_rows, driven_groups, fair_shares, rank, teacher_of
from flashwam.report.comparison import SURE
from flashwam.report.row import GROUPS, Row

__all__ = ["against_controls"]


def against_controls(best: Row, rows: Sequence[Row]) -> list[str]:
    """The untrained teacher at each of its students' steps, then at others that are fewer than its own."""
    sentences, beyond = [], []
    finals = [r for r in rows if r.final]
    taught = [(r, teacher_of(r, rows)) for r in finals if r.kind == "student" and r.sampler == "own"]
    full = {teacher.run: teacher for _, teacher in taught if teacher is not None}
    controls = [r for r in finals if r.kind == "teacher" and r.run in full]
    controls = [r for r in controls if r is not full[r.run] or dict(r.nfe) == dict(best.nfe)]
    goal = teacher_of(best, rows)
    for control in sorted(controls, key=lambda r: dict(r.nfe) != dict(best.nfe)):
        name = control.run if len(full) > 1 else "the teacher"
        students = [
            (r, teacher)
            for r, teacher in taught
            if teacher is not None and teacher.run == control.run and dict(r.nfe) == dict(control.nfe)
        ]
        if students:
            student = best if best in [r for r, _ in students] else min(students, key=lambda pair: rank(*pair))[0]
            sentences += _against_untrained(student, control, name)
        elif control.driven and goal is not None and control.run == goal.run:
            beyond += _against_more_steps(best, control, name)
    return sentences + beyond


def _against_more_steps(best: Row, control: Row, name: str) -> list[str]:
    told = _untrained(best, control, name)
    if told is None:
        return []
    text, gained, lost, where = told
    text += f", in {control.total_nfe} network evaluations for {best.total_nfe}"
    if lost and not gained:
        return [f"{text}: who can wait for them needs no student{where}."]
    if lost:
        return [f"{text}: it is better on one group of tasks, and worse on the other{where}."]
    return [f"{text}: {best.label} is {'ahead' if gained else 'not told from it'}{where}, and faster."]


def _against_untrained(student: Row, control: Row, name: str) -> list[str]:
    told = _untrained(student, control, name)
    if told is None:
        return []
    text, gained, lost, where = told
    if gained and lost:
        return [f"{text}: distillation gains on one group of tasks and costs on the other{where}."]
    if gained:
        return [f"{text}: distillation gains{where}."]
    if lost:
        return [f"{text}: distillation costs{where}. Something is wrong with these students."]
    return [f"{text}: on these tasks success alone cannot tell distillation from none."]


def _untrained(student: Row, control: Row, name: str) -> tuple[str, bool, bool, str] | None:
    """The control beside a student in words, whether the student is better, or worse, on any group beyond chance, and
    what to add where that holds for these trainings alone; None where both were driven on no group."""
    parts, gained, lost, of_these = [], False, False, False
    for group in driven_groups(student):
        found = compare_rows(student, control, multimodal=GROUPS[group])
        if found is None:
            continue
        _, theirs = fair_shares(student, control, group)
        gained |= found.leaves_out(0) and found.value > 0
        lost |= found.leaves_out(0) and found.value < 0
        of_these |= found.leaves_out(0) and not found.tells_from(0)
        parts.append(f"{theirs.rate:.0%} on the {group} tasks ({student.run} {found.points_text})")
    if not parts:
        return None
    at = f"{control.steps_text}{sampler_suffix(control.sampler, student=False)}"
    told = f"The control, {name} without any distillation at {at}, reaches {', '.join(parts)}"
    return told, gained, lost, f" {SURE[1]}" if of_these else ""
