# SPDX-License-Identifier: Apache-2.0
"""The chunks, the scenes and the noise at which a one-step student loses its way.

    python analysis/where_lost.py                              the students `pairs` of analysis/one_step.py
    python analysis/where_lost.py --family cogvideox --nfe 1v/1a 2v/2a

It wants the students and evaluations that `analysis/one_step.py` left in runs/one_step, and writes `where_lost.md` and
`where_lost.json` beside their comparison. Only tasks with several ways to go are looked at: there is nothing to choose
in the others.

The first table drives student and teacher in the same scenes, one at the first chunk, the other at all that follow. The
second draws first chunks in scenes of demonstrations and in new ones, the third from the noise of pairs that the
student learnt from and from fresh noise; both beside the teacher's from the same noise. What was measured is not
measured again.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import add_folders
from first_chunks import STARTS, acting, in_scenes, on_pairs, several_ways
from handover import Handover
from one_step import place_of
from one_step_cells import TEACHER_SEEDS, Place
from tqdm import tqdm

from flashwam.core.pairing import Outcomes, pair_outcomes, paired_ratio
from flashwam.demo.place import DEFAULT_FAMILY
from flashwam.evaluation.policy import Policy, load_policy
from flashwam.report.results import read_evaluations
from flashwam.run.folder import RunFolder
from flashwam.sim.closed_loop import drive
from flashwam.sim.gl import ensure_gl
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_json
from flashwam.wam.files import FAMILY_FILES

EPISODES = 50
TEACHER_FIRST, STUDENT_FIRST = "teacher, then student", "student, then teacher"
SHARES = ("chooses", "teacher chooses", "hesitates", "same", "error")


def hand_over(teacher: Policy, student: Policy, nfe: str, seed: int) -> dict[str, Any]:
    """Order -> task -> successes and ways of every episode."""
    orders = {TEACHER_FIRST: (teacher, student), STUDENT_FIRST: (student, teacher)}
    told: dict[str, Any] = {}
    for order, pair in orders.items():
        told[order] = {}
        for task in several_ways(student):
            first, then = (acting(one, "full" if one is teacher else nfe) for one in pair)
            driven = drive(Handover(first, then), task, episodes=EPISODES, seed=seed)
            told[order][task.name] = {"outcomes": list(map(int, driven.success)), "taken": list(driven.ways)}
    return told


def alone(run: Path, seed: int, nfe: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Task -> successes and ways of a model that draws every chunk, as it was evaluated."""
    for one in read_evaluations(run) if RunFolder(run).evaluation_files else []:
        if one.seed == seed and one.setting == nfe and one.sampler == "own":
            return {
                name: {"outcomes": list(one.tasks[name].outcomes or ()), "taken": list(one.tasks[name].taken or ())}
                for name in tasks
            }
    raise SystemExit(f"{run} was not evaluated at {nfe} with seed {seed}: run analysis/one_step.py first")


def measure(place: Place, seeds: Sequence[int], nfe: Sequence[str], file: Path) -> dict[str, Any]:
    """All measurements of some trainings; what `file` holds is not made again."""
    told: dict[str, Any] = read_json(file) if file.is_file() else {"handover": {}, "scenes": [], "pairs": []}
    ensure_gl()
    teacher = load_policy(place.demo.teacher)
    students = {seed: load_policy(RunFolder(place.run("pairs", seed)).result("student")) for seed in seeds}
    names = [task.name for task in several_ways(teacher)]
    taught = RunFolder.of_model(place.demo.teacher).path
    for seed, student in tqdm(students.items(), desc="trainings"):
        for steps in nfe:
            if (key := f"{seed} {steps}") not in told["handover"]:
                told["handover"][key] = {
                    "teacher": alone(taught, seed, "full", names),
                    **hand_over(teacher, student, steps, seed),
                    "student": alone(place.run("pairs", seed), seed, steps, names),
                }
                write_whole(file, json.dumps(told) + "\n")
        for name, rows in (
            ("scenes", partial(in_scenes, teacher, {seed: student})),
            ("pairs", partial(on_pairs, place, seed, teacher, student)),
        ):
            there = {row["nfe"] for row in told[name] if row["training"] == seed}
            if missing := [steps for steps in nfe if steps not in there]:
                with torch.no_grad():
                    told[name] += list(rows(missing))
                write_whole(file, json.dumps(told) + "\n")
    return told


def outcomes(told: Mapping[str, Any], nfe: str, who: str) -> Outcomes:
    """Training -> (task, scene) -> success, of one order."""
    return {
        seed: {
            (task, (seed, scene)): bool(won)
            for task, driven in orders[who].items()
            for scene, won in enumerate(driven["outcomes"])
        }
        for key, orders in told["handover"].items()
        for seed, steps in [key.split()]
        if steps == nfe
    }


def handover_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """Rows of the first table."""
    yield "| first chunk, then the others | student's steps | successes | of teacher | left/right/none | trainings |"
    yield "|---|---|---:|---:|---:|---:|"
    for nfe in sorted({key.split()[1] for key in told["handover"]}):
        teacher = outcomes(told, nfe, "teacher")
        for who in ("teacher", TEACHER_FIRST, STUDENT_FIRST, "student"):
            ours = outcomes(told, nfe, who)
            won, episodes = (sum(map(count, map(dict.values, ours.values()))) for count in (sum, len))
            kept = "-"
            if who != "teacher" and (ratio := paired_ratio(pair_outcomes(ours, teacher))) is not None:
                kept = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
            taken = [
                way
                for key, orders in told["handover"].items()
                if key.endswith(f" {nfe}")
                for driven in orders[who].values()
                for way in driven["taken"]
            ]
            ways = "/".join(str(taken.count(way)) for way in (0, 1, -1))
            yield f"| {who} | {nfe} | {won} of {episodes} | {kept} | {ways} | {len(ours)} |"


def share_lines(rows: Sequence[Mapping[str, Any]], by: str) -> Iterator[str]:
    """Rows of a table of first chunks, each the mean over tasks and trainings."""
    yield f"| {by} | steps | chooses | teacher chooses | hesitates | same way | error | first chunks | trainings |"
    yield "|---|---|" + "---:|" * 7
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row[by], row["nfe"]), []).append(row)
    for (kind, nfe), members in groups.items():
        shown = " | ".join(f"{np.mean([row[name] for row in members]):.3f}" for name in SHARES)
        drawn, trainings = sum(row.get("draws", STARTS) for row in members), {row["training"] for row in members}
        yield f"| {kind} | {nfe} | {shown} | {drawn:,} | {len(trainings)} |"


def tables(told: Mapping[str, Any]) -> str:
    """All of it, as Markdown."""
    parts = [
        "\n".join(handover_lines(told)),
        "\n".join(share_lines(told["scenes"], "scenes")),
        "\n".join(share_lines(told["pairs"], "noise")),
        "- Second and third table: first chunks alone. One that clearly leaves to one side chooses; hesitates: the "
        "share that does not where the teacher does; error: mean distance of the controls to the teacher's.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(FAMILY_FILES), default=DEFAULT_FAMILY)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEACHER_SEEDS))
    parser.add_argument("--nfe", nargs="+", default=["1v/1a"])
    add_folders(parser)
    arguments = parser.parse_args()
    place = place_of(arguments.family, arguments)
    out = place.out / "comparison"
    told = measure(place, arguments.seeds, arguments.nfe, out / "where_lost.json")
    write_whole(out / "where_lost.md", tables(told))
    print(tables(told))


if __name__ == "__main__":
    main()
