# SPDX-License-Identifier: Apache-2.0
"""Films the shipped teacher and a student distilled from it, side by side in the same scenes with the same seeds.

    python analysis/film.py --out runs/film --film docs/film.gif

Collects the benchmark's demonstrations, distils the student that the benchmark calls `on_policy_1500`, drives both and,
as the control, the teacher's own single step. About 20 minutes of one core; every step goes on where it was stopped.
The film's clock is the robot's: while a model draws a chunk its robot stands still, for as many milliseconds as the
benchmark measured. The scenes are the first ones of the evaluation, whatever becomes of them.
"""

import argparse
import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flashwam import pipeline
from flashwam.core.scenes import EVAL_SEED_BASE
from flashwam.evaluation.policy import load_policy
from flashwam.recipe import load_recipe
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.tasks import get_task
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import ASSETS

RESULTS = Path(__file__).resolve().parent / "results"
TEACHER = ASSETS / "teacher"
MEASURED = RESULTS / "full" / "comparison" / "compare.json"
TASKS = ("reach-wall", "drawer-open")
SCENES = 2
CONTROL_MS = 12.5
SLOWER = 4
STUDENT = (
    "name=on_policy_1500",
    "distill.steps=1500",
    "distill.lr=3e-4",
    "distill.warmup_steps=25",
    "distill.lr_decay=cosine",
)

MARGIN, HEAD, FOOT = 6, 40, 22
BACK, INK, GREY, GOOD, BAD = "#ffffff", "#111111", "#777777", "#0a7d32", "#c02020"


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
    Actor(title="student, 1 + 1 step", row="on_policy_1500 1v/1a", nfe="1v/1a", student=True),
    Actor(title="teacher, only 1 + 1 step", row="teacher 1v/1a", nfe="1v/1a"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One episode: pictures uint8 [H, W, 3] with the clock's milliseconds at which each began, and how it ended."""

    times: tuple[float, ...]
    pictures: tuple[np.ndarray, ...]
    drawing: tuple[bool, ...]
    success: bool

    @property
    def end(self) -> float:
        """Milliseconds of the whole episode."""
        return self.times[-1]

    def at(self, time: float) -> tuple[np.ndarray, bool]:
        """The picture at a time, and whether the model draws then."""
        index = int(np.searchsorted(self.times, time + 1e-6, side="right")) - 1
        return self.pictures[index], self.drawing[index]


def play(policy: LocalPolicy, task: str, scene: int, *, draw_ms: float, size: int) -> Take:
    """Drives one episode of the evaluation and films it.

    Args:
        policy: The model.
        task: Name of the task.
        scene: Number of the scene; it chooses the positions and the noise.
        draw_ms: Milliseconds in which the model draws a chunk.
        size: Pixels of the film's side; the model sees its own.
    """
    env = MetaWorldEnv(get_task(task))
    camera = copy.copy(env)
    camera.size = size
    frame = env.reset(EVAL_SEED_BASE + scene)
    policy.reset(env.task.prompt, frame[None], seed=scene, state=env.proprioception[None])
    clock, done = 0.0, False
    times, pictures, drawing = [clock], [camera.render()], [True]
    while not done:
        clock += draw_ms
        controls = policy.controls()
        seen, felt = [], []
        for i, control in enumerate(controls[0]):
            times.append(clock)
            pictures.append(camera.render())
            drawing.append(False)
            done, _, _ = env.step(control)
            clock += CONTROL_MS
            if done:
                break
            if (i + 1) % policy.per_frame == 0:
                seen.append(env.render())
                felt.append(env.proprioception)
        times.append(clock)
        pictures.append(camera.render())
        drawing.append(not done)
        if not done:
            policy.observe(np.stack(seen)[None], controls, state=np.stack(felt)[None])
    return Take(times=tuple(times), pictures=tuple(pictures), drawing=tuple(drawing), success=bool(env.success))


def frames_of(
    takes: Sequence[Sequence[Take]], *, labels: Sequence[str], draw_ms: Sequence[float], step: float, rest: float
) -> list[Image.Image]:
    """The frames of one scene: a row a task, a column an actor.

    Args:
        takes: Row -> column -> episode.
        labels: The heading of every column.
        draw_ms: Milliseconds a chunk of every column.
        step: The clock's milliseconds between two frames.
        rest: Milliseconds to linger at the end.
    """
    end = max(take.end for row in takes for take in row) + rest
    return [
        _frame(takes, labels=labels, draw_ms=draw_ms, time=number * step) for number in range(int(np.ceil(end / step)))
    ]


def _frame(
    takes: Sequence[Sequence[Take]], *, labels: Sequence[str], draw_ms: Sequence[float], time: float
) -> Image.Image:
    side = takes[0][0].pictures[0].shape[0]
    width = len(labels) * (side + MARGIN) + MARGIN
    page = Image.new("RGB", (width, HEAD + len(takes) * (side + FOOT + MARGIN)), BACK)
    pen = ImageDraw.Draw(page)
    for column, (label, ms) in enumerate(zip(labels, draw_ms, strict=True)):
        x = MARGIN + column * (side + MARGIN)
        pen.text((x, 4), label, fill=INK, font=ImageFont.load_default(14))
        pen.text((x, 22), f"{ms:.0f} ms a chunk", fill=GREY, font=ImageFont.load_default(12))
        for row, line in enumerate(takes):
            take, y = line[column], HEAD + row * (side + FOOT + MARGIN)
            picture, drawing = take.at(time)
            page.paste(Image.fromarray(picture), (x, y))
            shown = f"{min(time, take.end) / 1000:.2f} s"
            if time >= take.end:
                text, colour = ("reached", GOOD) if take.success else ("failed", BAD)
                pen.rectangle((x, y, x + side - 1, y + side - 1), outline=colour, width=3)
                shown = f"{text}, {shown}"
            else:
                colour = GREY if drawing else INK
                shown += "  drawing" if drawing else "  moving"
            pen.text((x, y + side + 3), shown, fill=colour, font=ImageFont.load_default(13))
    return page


def write_gif(frames: Sequence[Image.Image], path: Path, *, milliseconds: int, colours: int) -> None:
    """Writes an animation that repeats. What a frame shares with the one before it is transparent and costs nothing.

    Args:
        frames: Equally large.
        path: Where it goes.
        milliseconds: Of a frame.
        colours: Of the one palette of all frames, at most 255.
    """
    strip = Image.new("RGB", (frames[0].width, frames[0].height * 4))
    for i in range(4):
        strip.paste(frames[i * (len(frames) - 1) // 3], (0, i * frames[0].height))
    palette = strip.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    flat = [np.array(frame.quantize(palette=palette, dither=Image.Dither.NONE)) for frame in frames]
    table = [*palette.getpalette()[: 3 * colours], 0, 0, 0]

    def indexed(numbers: np.ndarray) -> Image.Image:
        image = Image.fromarray(numbers.astype(np.uint8), "P")
        image.putpalette(table)
        return image

    later = [indexed(np.where(new == old, colours, new)) for old, new in pairwise(flat)]
    held = io.BytesIO()
    indexed(flat[0]).save(
        held,
        "GIF",
        save_all=True,
        append_images=later,
        duration=milliseconds,
        loop=0,
        optimize=False,
        transparency=colours,
        disposal=1,
    )
    write_whole(path, held.getvalue())


def distilled(out: Path) -> Path:
    """Folder of the student's run, which is made if it is not there yet."""
    overrides = [*STUDENT, f"data.root={out / 'data'}", "data.processes=1", f"wam.pretrained={TEACHER}"]
    run = out / "student"
    pipeline.distill(load_recipe("metaworld/on_policy", overrides), run_dir=run)
    return run


def main() -> None:
    """Makes the film."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/film"), help="folder of data and student")
    parser.add_argument("--film", type=Path, default=Path("docs/film.gif"), help="where the film goes")
    parser.add_argument("--size", type=int, default=176, help="pixels of a picture's side")
    parser.add_argument("--colours", type=int, default=128, help="colours of the film, up to 255")
    args = parser.parse_args()
    student = distilled(args.out)
    rows = {row["label"]: row["latency"]["chunk_ms"] for row in read_mapping(MEASURED)["rows"]}
    draw_ms = [rows[actor.row] for actor in ACTORS]
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
        frames += frames_of(takes, labels=[a.title for a in ACTORS], draw_ms=draw_ms, step=2 * CONTROL_MS, rest=300)
    write_gif(frames, args.film, milliseconds=int(2 * CONTROL_MS * SLOWER), colours=args.colours)
    print(f"{args.film}: {len(frames)} frames, {args.film.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
