# SPDX-License-Identifier: Apache-2.0
"""Measures of drawn controls: against the teacher's from the same noise, against the recorded ones, and by themselves.

Letters: B windows, D draws a window, T controls of a window, U controls of the robot, V values shown of them, K chunks
of a window, N controls of a chunk.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flashwam.core.measures import FEWEST_DRAWS
from flashwam.data.control_names import nearer_turns, shorter_turns

__all__ = ["Drawn", "Ways", "split_ways", "trajectory_measures", "ways_taken"]

_CHANCE = 0.99
_BETWEEN = 0.5
_AT_AN_END = 0.1
_MOSTLY = 0.95
_WIDE = 1.0
_ROUNDED = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Controls of windows that several draws were made of.

    Attributes:
        student, teacher: [B, D, T, U], normalised; draw d of both began with the same noise. No teacher is None.
        recorded: [B, T, U], normalised.
        shown: "student", "teacher", "recorded" -> the same in the units of `ControlNames`, [..., T, V].
        valid: bool [B, T]: drawn and recorded, neither given nor padding.
        chunk: [T], the number of each control's chunk.
        turns: The first of the three of V that each turn takes, a rotation vector in degrees; see
            `ControlNames.readable`.
    """

    student: np.ndarray
    teacher: np.ndarray | None
    recorded: np.ndarray
    shown: Mapping[str, np.ndarray]
    valid: np.ndarray
    chunk: np.ndarray
    turns: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """Two ways that the draws of one chunk fall apart into.

    Attributes:
        axis: Unit vector, [N * U], from one way to the other.
        middle: Halfway between their means, along the axis.
        half: Half of the means' distance.
    """

    axis: np.ndarray
    middle: float
    half: float

    def place(self, draws: np.ndarray) -> np.ndarray:
        """Draws [D, N * U] -> [D]; about -1 on one way, 1 on the other, 0 between them."""
        return np.asarray((draws @ self.axis - self.middle) / self.half)


def trajectory_measures(drawn: Drawn) -> dict[str, float | list[float]]:
    """Root mean squares per value shown, and what tells a smooth, decided hand from another.

    Returns:
        Lists of V, in their units: `error_teacher` (same noise), `error_recorded`, `teacher_error_recorded`,
        `teacher_spread` (two draws of the teacher apart, the scale of the first) and `variance_ratio` (over a window's
        draws, over the teacher's). The same of all controls together, normalised: `all_error_teacher` and so on, with
        `all_student_spread`. A list of the longest N: `over_chunk`, the error to the teacher at each place of a chunk,
        in normalised controls. Of "student", "teacher" and "recorded", each `<who>_...`: `border`, the step from what
        was recorded before a chunk to its first control, over a step within a chunk; `jerk`, the root mean square of
        third differences within a chunk; `flips`, switches of a gripper per 100 controls, where a control is one, at a
        chunk's first control from what was recorded before it.
        Shares: see `ways_taken`. What is said of a teacher is left out where there is none.
    """
    valid, teacher = drawn.valid, drawn.teacher
    shown = {who: np.asarray(values, dtype=np.float64) for who, values in drawn.shown.items()}
    measures: dict[str, float | list[float]] = {}
    listed = _squares(shown["student"], shown.get("teacher"), shown["recorded"], valid, turns=drawn.turns)
    measures |= {name: np.sqrt(values).tolist() for name, values in listed.items()}
    whole = _squares(drawn.student, teacher, drawn.recorded, valid)
    measures |= {f"all_{name}": float(np.sqrt(values.mean())) for name, values in whole.items()}
    parts = {"student": drawn.student, "recorded": drawn.recorded[:, None]}
    if teacher is not None:
        if "teacher_spread" in listed:
            own, spread = listed.pop("student_spread"), listed["teacher_spread"]
            del measures["student_spread"]
            measures["variance_ratio"] = [float(a / b) if b else math.nan for a, b in zip(own, spread, strict=True)]
        measures["over_chunk"] = _over_chunk(drawn.student, teacher, drawn)
        measures |= ways_taken(drawn.student, teacher, drawn)
        parts["teacher"] = teacher
    switches = _switches(drawn.recorded, valid)
    for who, values in parts.items():
        told = _motion(values, drawn, switches)
        measures |= {f"{who}_{name}": value for name, value in told.items()}
    return measures


def _squares(
    ours: np.ndarray, theirs: np.ndarray | None, recorded: np.ndarray, valid: np.ndarray, *, turns: tuple[int, ...] = ()
) -> dict[str, np.ndarray]:
    """Mean squares of each control, [V]: of differences, and between two draws of one window. Turns are shown as they
    lie near the recorded one, and held against another draw's as they lie near that."""
    real = recorded[:, None]
    found = {"error_recorded": _mean(((ours - real) ** 2).mean(axis=1), valid)}
    if theirs is not None:
        found["error_teacher"] = _mean((_apart(ours, theirs, turns) ** 2).mean(axis=1), valid)
        found["teacher_error_recorded"] = _mean(((theirs - real) ** 2).mean(axis=1), valid)
        if ours.shape[1] > 1:
            # Over all pairs of different draws the mean square is twice the unbiased variance.
            for name, values in (("student_spread", ours), ("teacher_spread", theirs)):
                found[name] = _mean(2 * _variance(values, turns), valid)
    return found


def _apart(ours: np.ndarray, theirs: np.ndarray, turns: tuple[int, ...]) -> np.ndarray:
    """Differences [B, D, T, V]."""
    found = ours - theirs
    for first in turns:
        part = slice(first, first + 3)
        near = shorter_turns(theirs[..., part])
        again = nearer_turns(shorter_turns(ours[..., part]), near) - near
        now, then = (np.linalg.norm(each, axis=-1, keepdims=True) for each in (found[..., part], again))
        found[..., part] = np.where(then < now - _ROUNDED, again, found[..., part])
    return np.asarray(found)


def _variance(draws: np.ndarray, turns: tuple[int, ...]) -> np.ndarray:
    """The unbiased variance over draws [B, D, T, V], [B, T, V]."""
    found = np.asarray(draws.var(axis=1, ddof=1))
    for first in turns:
        part = slice(first, first + 3)
        short = shorter_turns(draws[..., part])
        again = nearer_turns(short, short[:, :1]).var(axis=1, ddof=1)
        now, then = (each.sum(axis=-1, keepdims=True) for each in (found[..., part], again))
        found[..., part] = np.where(then < now - _ROUNDED, again, found[..., part])
    return found


def _mean(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean over what is valid, [B, T, V] -> [V]."""
    return np.asarray((values * valid[..., None]).sum(axis=(0, 1)) / valid.sum())


def _over_chunk(ours: np.ndarray, theirs: np.ndarray, drawn: Drawn) -> list[float]:
    """The error in normalised controls at each place of a chunk; places that no window has are left out."""
    squares = ((ours - theirs) ** 2).mean(axis=(1, 3))
    place = np.concatenate([np.arange(count) for count in np.bincount(drawn.chunk)])
    found = []
    for number in range(place.max() + 1):
        here = drawn.valid[:, place == number]
        if here.any():
            found.append(float(np.sqrt(squares[:, place == number][here].mean())))
    return found


def _motion(values: np.ndarray, drawn: Drawn, switches: np.ndarray) -> dict[str, float]:
    """Border, jerk and flips of controls [B, D, T, U]; what cannot be told is left out."""
    found: dict[str, float] = {}
    valid, chunk = drawn.valid, drawn.chunk
    both = valid[:, 1:] & valid[:, :-1]
    within, border = (both & same for same in (np.diff(chunk) == 0, np.diff(chunk) != 0))
    # Every chunk was drawn after the recorded one before it, not after its own draw of that.
    before = drawn.recorded[:, None, :-1]
    inside, across = (_lengths(values[:, :, 1:] - earlier) for earlier in (values[:, :, :-1], before))
    if border.any() and within.any() and inside[within].mean() > 0:
        found["border"] = float(across[border].mean() / inside[within].mean())
    whole = np.all([valid[:, k : valid.shape[1] - 3 + k] for k in range(4)], axis=0) & (chunk[3:] == chunk[:-3])
    if whole.any():
        third = _lengths(np.diff(values, n=3, axis=2), power=2)
        found["jerk"] = float(np.sqrt(third[whole].mean()))
    if switches.any():
        up, recorded = (each[..., switches] > 0 for each in (values, before))
        earlier = np.where((np.diff(chunk) != 0)[:, None], recorded, up[:, :, :-1])
        flips = (up[:, :, 1:] != earlier).sum(axis=-1).mean(axis=1)
        found["flips"] = float(100 * flips[both].mean())
    return found


def _lengths(steps: np.ndarray, *, power: int = 1) -> np.ndarray:
    """Lengths of steps [B, D, T, U], or their squares, mean over draws: [B, T]."""
    return np.asarray((np.linalg.norm(steps, axis=-1) ** power).mean(axis=1))


def _switches(recorded: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The controls that lie at either end of their range nearly always, and at both: bool [U]."""
    rows = recorded[valid]
    low, high = rows.min(axis=0), rows.max(axis=0)
    extent = high - low
    at_low, at_high = rows <= low + _AT_AN_END * extent, rows >= high - _AT_AN_END * extent
    # Their middle must be that of the normalisation, at which flips are counted.
    across = (low < 0) & (high > 0) & (extent >= _WIDE)
    return np.asarray(
        across & (at_low.any(axis=0)) & (at_high.any(axis=0)) & ((at_low | at_high).mean(axis=0) >= _MOSTLY)
    )


def ways_taken(student: np.ndarray, teacher: np.ndarray, drawn: Drawn) -> dict[str, float]:
    """Tells whether draws decide where the teacher's fall apart into two ways.

    Args:
        student, teacher: [B, D, T, U].
        drawn: What they are of.

    Returns:
        `split`, the share of chunks whose draws of the teacher do, see `split_ways`: one in a hundred by chance alone.
        Of these, where there are any: `teacher_between` and `student_between`, shares of draws nearer to the middle
        than to a way; `same_way`, of the decided draws from the same noise those that take the teacher's way; and
        `student_first`, `teacher_first`, shares of decided draws on the way that more of the teacher's take. Nothing
        for fewer than 8 draws.
    """
    if teacher.shape[1] < FEWEST_DRAWS:
        return {}
    chunks, places = 0, []
    for window in range(len(drawn.valid)):
        for number in range(int(drawn.chunk.max()) + 1):
            here = drawn.valid[window] & (drawn.chunk == number)
            if not here.any():
                continue
            chunks += 1
            ours, theirs = (each[window][:, here].reshape(each.shape[1], -1) for each in (student, teacher))
            ways = split_ways(theirs)
            if ways is not None:
                places.append((ways.place(ours), ways.place(theirs)))
    found = {"split": len(places) / max(chunks, 1)}
    if not places:
        return found
    ours, theirs = (np.concatenate(each) for each in zip(*places, strict=True))
    decided = {"student": np.abs(ours) >= _BETWEEN, "teacher": np.abs(theirs) >= _BETWEEN}
    for who, values in (("student", ours), ("teacher", theirs)):
        found[f"{who}_between"] = float(1 - decided[who].mean())
        if decided[who].any():
            found[f"{who}_first"] = float((values[decided[who]] < 0).mean())
    if (both := decided["student"] & decided["teacher"]).any():
        found["same_way"] = float((np.sign(ours) == np.sign(theirs))[both].mean())
    return found


def split_ways(draws: np.ndarray) -> Ways | None:
    """Two ways that draws of one chunk fall apart into, along the line on which they vary most; the first way is the
    one that more of them take. None where so clear a gap is no surprise among draws with one way.

    Args:
        draws: [D, N * U].
    """
    mean = draws.mean(axis=0)
    _, _, directions = np.linalg.svd(draws - mean, full_matrices=False)
    place = draws @ directions[0]
    share, cut = _best_cut(np.sort(place))
    if not share > _chance_cut(len(draws)):
        return None
    below = np.argsort(place)[:cut]
    first = np.zeros(len(draws), bool)
    first[below] = True
    if 2 * cut < len(draws):
        first = ~first
    one, other = place[first].mean(), place[~first].mean()
    sign = np.sign(other - one)
    return Ways(axis=sign * directions[0], middle=float(sign * (one + other) / 2), half=float(abs(other - one) / 2))


def _best_cut(ordered: np.ndarray) -> tuple[float, int]:
    """The cut of ordered numbers, two at least on either side, that explains most of their variance: (share, count
    below); share 0 where all are one number."""
    count, total = len(ordered), float(((ordered - ordered.mean()) ** 2).sum())
    if total <= 0 or count < 4:
        return 0.0, count
    below = np.arange(2, count - 1)
    sums = np.cumsum(ordered)[below - 1]
    gap = sums / below - (ordered.sum() - sums) / (count - below)
    shares = below * (count - below) / count * gap**2 / total
    return float(shares.max()), int(below[shares.argmax()])


@lru_cache
def _chance_cut(count: int) -> float:
    """The share that a cut of so many normal numbers explains at most, in 99 of 100 cases."""
    drawn = np.sort(np.random.Generator(np.random.Philox(key=[0, count])).normal(size=(4000, count)))
    return float(np.quantile([_best_cut(one)[0] for one in drawn], _CHANCE))
