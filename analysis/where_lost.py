# SPDX-License-Identifier: Apache-2.0
"""Where a one-step student loses what its teacher has: at an episode's first chunk or later, in scenes it saw or not.

    python analysis/where_lost.py                              the students `pairs` of analysis/one_step.py
    python analysis/where_lost.py --family cogvideox --nfe 1v/1a 2v/2a

It wants the students and evaluations that `analysis/one_step.py` left in runs/one_step, and writes `where_lost.md` and
`where_lost.json` beside their comparison. Only tasks with several ways to go are looked at: there is nothing to choose
in the others.

The first table drives student and teacher in the same scenes, one at the first chunk, the other at all that follow. The
second draws first chunks from the same noise in scenes of demonstrations and in new ones, without driving them. What
was measured is not measured again.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import TEACHER
from handover import Handover
from one_step import place_of
from one_step_cells import TEACHER_SEEDS, Place
from tqdm import tqdm

from flashwam.core.pairing import Outcomes, pair_outcomes, paired_ratio
from flashwam.core.scenes import DEMO_SEED_BASE, evaluation_scene
from flashwam.demo.place import DEFAULT_FAMILY
from flashwam.evaluation.policy import Policy, load_policy
from flashwam.report.results import read_evaluations
from flashwam.run.folder import RunFolder
from flashwam.sim.closed_loop import drive
from flashwam.sim.gl import ensure_gl
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.metaworld import pooled_envs
from flashwam.sim.tasks import TaskSpec, commitment, get_task
from flashwam.sim.world import World
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_json
from flashwam.wam.files import FAMILY_FILES

EPISODES, STARTS, AT_ONCE = 50, 250, 50
UNUSED = 900
"""Seed of an evaluation that no study makes."""
SCENES = {"demonstrated": DEMO_SEED_BASE, "new": evaluation_scene(UNUSED, 0)}
TEACHER_FIRST, STUDENT_FIRST = "teacher, then student", "student, then teacher"
LEADING = 8
"""Controls that tell the way, as `flashwam.sim.closed_loop` counts."""


def acting(policy: Policy, nfe: str) -> LocalPolicy:
    """A model that is drawn in so many steps."""
    return LocalPolicy(policy.wam, policy.samplers(nfe), policy.codec)


def several_ways(policy: Policy) -> list[TaskSpec]:
    """Those of its tasks that have several ways."""
    return [task for task in map(get_task, policy.info.tasks) if task.multimodal]


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


def first_pictures(task: TaskSpec, base: int, per_frame: int) -> np.ndarray:
    """The first picture of every scene from number `base` on, uint8 [STARTS, H, W, 3]."""
    envs = pooled_envs(task, AT_ONCE, size=64)
    groups = range(base, base + STARTS, AT_ONCE)
    return np.concatenate([World(envs, per_frame).reset(range(begin, begin + AT_ONCE)) for begin in groups])


def first_controls(policy: Policy, nfe: str, task: TaskSpec, pictures: np.ndarray) -> np.ndarray:
    """Controls of the first chunk in every scene, the same noise for every model, [STARTS, N, U]."""
    acts, drawn = acting(policy, nfe), []
    for begin in range(0, STARTS, AT_ONCE):
        acts.reset(task.prompt, pictures[begin : begin + AT_ONCE], seed=begin)
        drawn.append(acts.controls())
    return np.concatenate(drawn)


def choices(controls: np.ndarray, task: TaskSpec) -> np.ndarray:
    """The way that each first chunk takes, -1 for none, [STARTS]."""
    leading = controls[:, :LEADING, 0].astype(np.float64)
    return commitment(leading, threshold=task.commit_threshold)[1]


def draw_starts(teacher: Policy, students: Mapping[int, Policy], nfe: Sequence[str]) -> list[dict[str, Any]]:
    """First chunks of every model in every kind of scene, beside the teacher's from the same noise."""
    rows = []
    for task in several_ways(teacher):
        for kind, base in SCENES.items():
            pictures = first_pictures(task, base, teacher.wam.shapes["action"][1])
            own = first_controls(teacher, "full", task, pictures)
            reference = choices(own, task)
            about: dict[str, Any] = {"task": task.name, "scenes": kind}
            rows.append({**about, "model": TEACHER, "nfe": "full", "chooses": float((reference >= 0).mean())})
            for seed, student in students.items():
                for steps in nfe:
                    controls = first_controls(student, steps, task, pictures)
                    chosen = choices(controls, task)
                    both = (chosen >= 0) & (reference >= 0)
                    rows.append(
                        {
                            **about,
                            "model": f"training {seed}",
                            "nfe": steps,
                            "chooses": float((chosen >= 0).mean()),
                            "hesitates": float((chosen[reference >= 0] < 0).mean()),
                            "same": float((chosen == reference)[both].mean()),
                            "error": float(np.abs(controls - own).mean()),
                        }
                    )
    return rows


def alone(run: Path, seed: int, nfe: str, tasks: Sequence[TaskSpec]) -> dict[str, Any]:
    """Task -> successes and ways of a model that draws every chunk, as it was evaluated."""
    names = {task.name for task in tasks}
    for one in read_evaluations(run) if RunFolder(run).evaluation_files else []:
        if one.seed == seed and one.setting == nfe and one.sampler == "own":
            found = {name: task for name, task in one.tasks.items() if name in names}
            return {
                name: {"outcomes": list(task.outcomes or ()), "taken": list(task.taken or ())}
                for name, task in found.items()
            }
    raise SystemExit(f"{run} was not evaluated at {nfe} with seed {seed}: run analysis/one_step.py first")


def measure(place: Place, seeds: Sequence[int], nfe: Sequence[str], file: Path) -> dict[str, Any]:
    """All measurements, made where `file` does not hold them."""
    told: dict[str, Any] = read_json(file) if file.is_file() else {"handover": {}, "starts": []}
    ensure_gl()
    torch.set_grad_enabled(False)
    teacher = load_policy(place.demo.teacher)
    students = {seed: load_policy(RunFolder(place.run("pairs", seed)).result("student")) for seed in seeds}
    teacher_run = RunFolder.of_model(place.demo.teacher).path
    for seed, student in tqdm(students.items(), desc="handover"):
        for steps in nfe:
            key = f"{seed} {steps}"
            if key not in told["handover"]:
                told["handover"][key] = {
                    **hand_over(teacher, student, steps, seed),
                    "teacher": alone(teacher_run, seed, "full", several_ways(student)),
                    "student": alone(place.run("pairs", seed), seed, steps, several_ways(student)),
                }
                write_whole(file, json.dumps(told) + "\n")
    known = {row["model"] for row in told["starts"]}
    if any(f"training {seed}" not in known for seed in seeds):
        told["starts"] = draw_starts(teacher, students, nfe)
        write_whole(file, json.dumps(told) + "\n")
    return told


def _outcomes(told: Mapping[str, Any], nfe: str, who: str) -> Outcomes:
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
        teacher = _outcomes(told, nfe, "teacher")
        for who in ("teacher", TEACHER_FIRST, STUDENT_FIRST, "student"):
            ours = _outcomes(told, nfe, who)
            won, episodes = (sum(f(one.values()) for one in ours.values()) for f in (sum, len))
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


def start_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """Rows of the second table, each a mean over tasks and trainings."""
    yield "| scenes | model | steps | chooses a way | hesitates where the teacher chooses | same way | error |"
    yield "|---|---|---|---:|---:|---:|---:|"
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in told["starts"]:
        model = TEACHER if row["model"] == TEACHER else "student"
        groups.setdefault((row["scenes"], model, row["nfe"]), []).append(row)
    for (scenes, model, nfe), rows in groups.items():
        shown = [
            f"{np.mean([row[name] for row in rows]):.3f}" if name in rows[0] else "-"
            for name in ("chooses", "hesitates", "same", "error")
        ]
        yield f"| {scenes} | {model} | {nfe} | {' | '.join(shown)} |"


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(FAMILY_FILES), default=DEFAULT_FAMILY)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEACHER_SEEDS))
    parser.add_argument("--nfe", nargs="+", default=["1v/1a"])
    arguments = parser.parse_args()
    place = place_of(arguments.family)
    out = place.out / "comparison"
    told = measure(place, arguments.seeds, arguments.nfe, out / "where_lost.json")
    tables = [
        "\n".join(handover_lines(told)),
        "\n".join(start_lines(told)),
        f"- Chooses, hesitates, same way: of {STARTS} first chunks a task from the same noise; one that clearly leaves "
        "to one side chooses. Error: mean distance of its controls to the teacher's.",
    ]
    write_whole(out / "where_lost.md", "\n\n".join(tables) + "\n")
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
