# SPDX-License-Identifier: Apache-2.0
"""Films of models side by side in the same scene, by the robot's clock: while a model draws, its robot stands still."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flashwam.core.scenes import evaluation_scene
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.simulators import get_task, make_env
from flashwam.system.files import write_whole

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Take", "frames_of", "play", "write_gif"]

_MARGIN, _HEAD, _FOOT = 6, 40, 22
_BACK, _INK, _GREY, _GOOD, _BAD = "#16191d", "#e6e8eb", "#a2a9b3", "#4cc38a", "#ff7b72"
"""Dark, as a film is on a light page and on a dark one."""


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


def play(policy: LocalPolicy, name: str, scene: int, *, draw_ms: float, size: int) -> Take:
    """Drives one episode of the evaluation and films it.

    Args:
        policy: The model.
        name: Of the task, in any simulator that small models are compared in.
        scene: Number of the scene; it chooses the positions and the noise.
        draw_ms: Milliseconds in which the model draws a chunk.
        size: Height of the film in pixels; the model sees its own pictures.

    Raises:
        ImportError: The task's simulator is not installed.
        ValueError: The name is unknown.
    """
    task = get_task(name)
    # The same episode twice, one of which the model sees: simulators draw pictures of one size.
    env, filmed = make_env(task), make_env(task, size=size)
    for one in (env, filmed):
        one.reset(evaluation_scene(0, scene), render=False)
    policy.reset(task.prompt, env.render()[None], seed=scene, state=env.proprioception[None])
    clock, done = 0.0, False
    times, pictures, drawing = [clock], [filmed.render()], [True]
    while not done:
        clock += draw_ms
        controls = policy.controls()
        seen, felt = [], []
        for i, control in enumerate(controls[0]):
            times.append(clock)
            pictures.append(filmed.render())
            drawing.append(False)
            done, _, _ = env.step(control)
            filmed.step(control)
            clock += 1000 / task.control_hz
            if done:
                break
            if (i + 1) % policy.per_frame == 0:
                seen.append(env.render())
                felt.append(env.proprioception)
        times.append(clock)
        pictures.append(filmed.render())
        drawing.append(not done)
        if not done:
            policy.observe(np.stack(seen)[None], controls, state=np.stack(felt)[None])
    success = env.success
    for one in (env, filmed):
        one.close()
    return Take(times=tuple(times), pictures=tuple(pictures), drawing=tuple(drawing), success=bool(success))


def frames_of(
    takes: Sequence[Sequence[Take]], *, labels: Sequence[str], draw_ms: Sequence[float], step: float, rest: float
) -> list["Image.Image"]:
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
) -> "Image.Image":
    from PIL import Image, ImageDraw, ImageFont

    height, width = takes[0][0].pictures[0].shape[:2]
    whole = (len(labels) * (width + _MARGIN) + _MARGIN, _HEAD + len(takes) * (height + _FOOT + _MARGIN))
    page = Image.new("RGB", whole, _BACK)
    pen = ImageDraw.Draw(page)
    for column, (label, ms) in enumerate(zip(labels, draw_ms, strict=True)):
        x = _MARGIN + column * (width + _MARGIN)
        pen.text((x, 4), label, fill=_INK, font=ImageFont.load_default(14))
        pen.text((x, 22), f"{ms:.0f} ms a chunk", fill=_GREY, font=ImageFont.load_default(12))
        for row, line in enumerate(takes):
            take, y = line[column], _HEAD + row * (height + _FOOT + _MARGIN)
            picture, drawing = take.at(time)
            page.paste(Image.fromarray(picture), (x, y))
            shown = f"{min(time, take.end) / 1000:.2f} s"
            if time >= take.end:
                text, colour = ("reached", _GOOD) if take.success else ("failed", _BAD)
                pen.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=3)
                shown = f"{text}, {shown}"
            else:
                colour = _GREY if drawing else _INK
                shown += "  drawing" if drawing else "  moving"
            pen.text((x, y + height + 3), shown, fill=colour, font=ImageFont.load_default(13))
    return page


def write_gif(frames: Sequence["Image.Image"], path: Path, *, milliseconds: int, colours: int) -> None:
    """Writes an animation that repeats. What a frame shares with the one before it is transparent and costs nothing.

    Args:
        frames: Equally large.
        path: Where it goes.
        milliseconds: Of a frame.
        colours: Of the one palette of all frames, at most 255.
    """
    from PIL import Image

    strip = Image.new("RGB", (frames[0].width, frames[0].height * 4))
    for i in range(4):
        strip.paste(frames[i * (len(frames) - 1) // 3], (0, i * frames[0].height))
    palette = strip.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    flat = [np.array(frame.quantize(palette=palette, dither=Image.Dither.NONE)) for frame in frames]
    table = [*(palette.getpalette() or ())[: 3 * colours], 0, 0, 0]

    def indexed(numbers: np.ndarray) -> "Image.Image":
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
