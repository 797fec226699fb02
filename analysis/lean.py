# SPDX-License-Identifier: Apache-2.0
"""Leaning of a one-step student to one way where its teacher takes both: by its video's noise, and by pictures.

    python analysis/lean.py runs/one_step/runs/pairs/student flashwam/assets/teacher
    python analysis/lean.py runs/one_step/runs/pairs/student flashwam/assets/teacher --data runs/one_step/data

First chunks in new scenes of the tasks with two ways, drawn from the same noise by the teacher in all its steps and by
the student in one, the video's noise times each temperature. Nothing is simulated but the first picture. With --data:
in the scenes of demonstrations instead, once from the picture that the simulator gives there and once from the one that
was kept of it.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from first_chunks import UNUSED, first_controls, first_pictures, several_ways

from flashwam.core.sampler_name import sampler_name
from flashwam.core.scenes import evaluation_scene
from flashwam.core.stats import wilson
from flashwam.data.episodes import read_episode_list, read_frames, video_path
from flashwam.evaluation.policy import Policy, load_policy
from flashwam.sim.contract import Task
from flashwam.sim.gl import ensure_gl
from flashwam.sim.ways import chosen_ways
from flashwam.system.files import write_whole

TEMPERATURES = (0.5, 0.75, 1.0, 1.25, 1.5)
LEFT, RIGHT = 0, 1
EPISODES, NOISES = 100, range(7000, 7600, 100)
"""Demonstrations of each task, and the noises that each is drawn from."""
NOISE = "the video's noise"
HEADER = (
    f"| drawn by | {NOISE} | choose a way | of these left, % | the teacher's way, % | "
    "left where it goes right | right where it goes left |\n|---|" + "---:|" * 6
)


def chosen(policy: Policy, nfe: str, pictures: dict[str, np.ndarray], temperature: float) -> np.ndarray:
    """The way of every first chunk of all tasks, -1 for none."""
    sampler = sampler_name(temperature=None if temperature == 1 else {"video": temperature})
    found = [
        chosen_ways(first_controls(policy, nfe, task, pictures[task.name], sampler=sampler), task)
        for task in several_ways(policy)
    ]
    return np.concatenate(found)


def line(name: str, column: float | str, own: np.ndarray, reference: np.ndarray) -> str:
    """A row: the ways of one model, at one temperature or from one kind of picture, beside others, the teacher's."""
    took, both = own >= 0, (own >= 0) & (reference >= 0)
    low, high = (100 * end for end in wilson(int((own == LEFT).sum()), int(took.sum())))
    cells = (
        f"{took.mean():.3f}",
        f"{100 * (own[took] == LEFT).mean():.1f} ({low:.1f} to {high:.1f})",
        f"{100 * (own == reference)[both].mean():.1f}",
        str(int(((own == LEFT) & (reference == RIGHT)).sum())),
        str(int(((own == RIGHT) & (reference == LEFT)).sum())),
    )
    shown = column if isinstance(column, str) else f"{column:g}"
    return f"| {name} | {shown} | {' | '.join(cells)} |"


def lines(teacher: Policy, student: Policy, temperatures: Sequence[float], scenes: int) -> Iterator[str]:
    """The table's rows: the teacher, then the student."""
    first, per_frame = evaluation_scene(UNUSED, 0), teacher.wam.shapes["action"][1]
    pictures = {
        task.name: first_pictures(task, range(first, first + scenes), per_frame) for task in several_ways(teacher)
    }
    reference = chosen(teacher, "full", pictures, 1)
    for name, policy, nfe in (("teacher", teacher, "full"), (student.name, student, "1v/1a")):
        for temperature in temperatures:
            yield line(name, temperature, chosen(policy, nfe, pictures, temperature), reference)


def by_pictures(teacher: Policy, student: Policy, data: Path) -> Iterator[str]:
    """The table's rows: both from live and from kept pictures of the same scenes, beside the teacher from the same; at
    last the teacher from kept pictures beside itself from live ones."""
    pictures: dict[str, dict[Task, np.ndarray]] = {"live": {}, "kept": {}}
    for task in several_ways(teacher):
        episodes = read_episode_list(data / task.name)[:EPISODES]
        seeds, per_frame = [one["seed"] for one in episodes], teacher.wam.shapes["action"][1]
        pictures["live"][task] = first_pictures(task, seeds, per_frame)
        files = [video_path(data / task.name, one["episode_index"]) for one in episodes]
        pictures["kept"][task] = np.concatenate([read_frames(file, [0]) for file in files])

    def ways(policy: Policy, nfe: str, kind: str) -> np.ndarray:
        drawn = [
            chosen_ways(first_controls(policy, nfe, task, shown, noise=noise), task)
            for task, shown in pictures[kind].items()
            for noise in NOISES
        ]
        return np.concatenate(drawn)

    theirs = {kind: ways(teacher, "full", kind) for kind in pictures}
    for kind in pictures:
        yield line("teacher", kind, theirs[kind], theirs[kind])
        yield line(student.name, kind, ways(student, "1v/1a", kind), theirs[kind])
    yield line("teacher", "kept, beside live", theirs["kept"], theirs["live"])


def main() -> None:
    """Draw, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--temperatures", type=float, nargs="+", default=list(TEMPERATURES))
    parser.add_argument("--scenes", type=int, default=500, help="of each task")
    parser.add_argument("--data", type=Path, help="demonstrations whose pictures are held against live ones")
    parser.add_argument("--out", type=Path, help="file for the table")
    arguments = parser.parse_args()
    ensure_gl()
    teacher, student = load_policy(arguments.teacher), load_policy(arguments.student)
    if arguments.data is None:
        rows = [HEADER, *lines(teacher, student, arguments.temperatures, arguments.scenes)]
    else:
        rows = [HEADER.replace(NOISE, "pictures"), *by_pictures(teacher, student, arguments.data)]
    table = "\n".join(rows) + "\n"
    if arguments.out is not None:
        write_whole(arguments.out, table)
    print(table)


if __name__ == "__main__":
    main()
