# SPDX-License-Identifier: Apache-2.0
"""Films the shipped teacher and a student distilled from it, side by side in the same scenes with the same seeds.

    python analysis/film.py --out runs/film --film docs/film.gif

Collects demonstrations, distils the student `pairs_cooled_actions` as `analysis/one_step.py` does for its first seed,
drives both and, as the control, the teacher's own single step. About 40 minutes of one core; every step goes on where
it was stopped, and `--student RUN` takes a student that is there. The film's clock is the robot's: while a model draws
a chunk its robot stands still, for as many milliseconds as that study measured. The scenes are the first ones of the
evaluation, whatever becomes of them.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from flashwam import pipeline
from flashwam.demo.film import frames_of, play, write_gif
from flashwam.evaluation.policy import load_policy
from flashwam.recipe import load_recipe
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.tasks import CONTROL_HZ
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import ASSETS

RESULTS = Path(__file__).resolve().parent / "results"
TEACHER = ASSETS / "teacher"
MEASURED = RESULTS / "one_step" / "comparison" / "compare.json"
TASKS = ("reach-wall", "drawer-open")
SCENES = 2
SLOWER = 4
STEP_MS = 2 * 1000 / CONTROL_HZ
STUDENT = "pairs_cooled_actions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """One column of the film.

    Args:
        title: Its heading.
        row: Its name in the benchmark's table, which says how long it draws.
        nfe: Steps of video and actions a chunk.
        student: Whether it is the distilled one.
    """

    title: str
    row: str
    nfe: str
    student: bool = False


ACTORS = (
    Actor(title="teacher, 10 + 10 steps", row="teacher 10v/10a", nfe="full"),
    Actor(title="student, 1 + 1 step", row=f"{STUDENT} 1v/1a", nfe="1v/1a", student=True),
    Actor(title="teacher, only 1 + 1 step", row="teacher 1v/1a", nfe="1v/1a"),
)


def distilled(out: Path) -> Path:
    """Folder of the student's run, which is made if it is not there yet."""
    overrides = [f"data.root={out / 'data'}", "data.processes=1", f"wam.pretrained={TEACHER}"]
    run = out / "student"
    pipeline.distill(load_recipe(f"metaworld/{STUDENT}", overrides), run_dir=run)
    return run


def main() -> None:
    """Makes the film."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/film"), help="folder of data and student")
    parser.add_argument("--student", type=Path, help="run of a student to film; made in --out if not given")
    parser.add_argument("--film", type=Path, default=Path("docs/film.gif"), help="where the film goes")
    parser.add_argument("--size", type=int, default=176, help="pixels of a picture's side")
    parser.add_argument("--colours", type=int, default=128, help="colours of the film, up to 255")
    args = parser.parse_args()
    student = args.student or distilled(args.out)
    measured = {row["label"]: row["latency"] for row in read_mapping(MEASURED)["rows"]}
    draw_ms = [measured[actor.row]["chunk_ms"] for actor in ACTORS]
    policies = []
    for actor in ACTORS:
        policy = load_policy(student if actor.student else TEACHER)
        policies.append(LocalPolicy(policy.wam, policy.samplers(actor.nfe), policy.codec))
    frames = []
    for scene in range(SCENES):
        takes = [
            [
                play(policy, task, scene, draw_ms=ms, size=args.size)
                for policy, ms in zip(policies, draw_ms, strict=True)
            ]
            for task in TASKS
        ]
        for task, row in zip(TASKS, takes, strict=True):
            print(
                f"{task}, scene {scene}:",
                ", ".join(f"{a.row} {t.success} {t.end:.0f} ms" for a, t in zip(ACTORS, row, strict=True)),
            )
        frames += frames_of(takes, labels=[a.title for a in ACTORS], draw_ms=draw_ms, step=STEP_MS, rest=300)
    write_gif(frames, args.film, milliseconds=int(STEP_MS * SLOWER), colours=args.colours)
    print(f"{args.film}: {len(frames)} frames, {args.film.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
