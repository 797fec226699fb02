# SPDX-License-Identifier: Apache-2.0
"""Evaluations on recorded episodes as lines for a terminal."""

from collections.abc import Mapping

from flashwam.run.evaluation import Evaluation
from flashwam.run.recordings import CONTROL_COLUMNS, RecordingNumbers

__all__ = ["recording_lines"]

_MOTION = {"border": "step into a chunk", "jerk": "jerk", "flips": "gripper switches per 100 controls"}


def recording_lines(one: Evaluation, numbers: RecordingNumbers) -> list[str]:
    """Writes one evaluation on recordings: errors per control, and what tells a decided hand from another."""
    whose = {True: "held-out", False: "TRAINED-ON", None: "recorded"}[numbers.held_out]
    lines = [f"{one.label}: {numbers.counted} of {numbers.episodes} {whose} episodes, {numbers.draws} draws each"]
    told = {column: numbers.by_control[name] for column, name in CONTROL_COLUMNS.items() if name in numbers.by_control}
    names = [f"{name} [{unit}]" if unit else name for name, unit in zip(numbers.names, numbers.units, strict=True)]
    wide = max(len(name) for name in names)
    lines.append(f"  {'control':<{wide}} " + " ".join(f"{column:>19}" for column in told))
    lines += [
        f"  {name:<{wide}} " + " ".join(f"{values[number]:>19.4g}" for values in told.values())
        for number, name in enumerate(names)
    ]
    measures = numbers.measures
    for name, words in _MOTION.items():
        each = {
            who: measures[key] for who in ("student", "teacher", "recorded") if (key := f"{who}_{name}") in measures
        }
        if any(each.values()):
            lines.append(f"  {words}: " + ", ".join(f"{who} {value:.3g}" for who, value in each.items()))
    if "split" in measures:
        lines.append(_ways_line(measures))
    lines += _video_lines(one.open_loop or {})
    if one.chunk_ms is not None:
        lines.append(_latency_line(one.latency))
    return lines


def _ways_line(measures: Mapping[str, float]) -> str:
    line = f"  ways: the teacher's draws fall apart in {measures['split']:.0%} of the chunks"
    if "student_between" in measures:
        ours, theirs = measures["student_between"], measures["teacher_between"]
        line += f"; there {ours:.0%} of the student's and {theirs:.0%} of its own lie between the ways"
    if "same_way" in measures:
        line += f"; of the others {measures['same_way']:.0%} go the teacher's way from the same noise"
    return line


def _video_lines(open_loop: Mapping[str, float]) -> list[str]:
    """Writes the errors of latents, and those of decoded pictures where these were looked at."""
    lines = []
    if (latent := open_loop.get("video_error_teacher")) is not None:
        lines.append(f"  video latents: mean squared error to the teacher's {latent:.4g}")
    if (decoded := open_loop.get("video_decoded_error_teacher")) is not None:
        told = f"  decoded video: {decoded:.3g} grey levels of 255 from the teacher's"
        told += f", {open_loop['video_decoded_error_expert']:.3g} from the recorded"
        sharpness = open_loop.get("video_decoded_sharpness_ratio")
        lines.append(told + ("" if sharpness is None else f"; {sharpness:.3g} times the teacher's sharpness"))
    return lines


def _latency_line(latency: Mapping[str, float]) -> str:
    """Writes "20.5 ms a chunk: video 12.3, action 8.2", the parts of stages behind them."""
    parts = {name: value for name, value in latency.items() if name.startswith("part/")}
    stages = {name: value for name, value in latency.items() if name not in parts and name != "chunk_ms"}
    line = f"  {latency['chunk_ms']:.1f} ms a chunk"
    for told, begin in ((stages, ": "), (parts, "; of them ")):
        if told:
            each = (f"{name.removeprefix('part/').removesuffix('_ms')} {value:.1f}" for name, value in told.items())
            line += begin + ", ".join(each)
    return line
