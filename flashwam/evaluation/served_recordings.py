# SPDX-License-Identifier: Apache-2.0
"""Judges a served model on raw recordings: it is shown what was seen and done, and draws every chunk that followed.

Letters: W windows, D draws, T controls of a window, U controls of the robot, F latent frames, N controls a frame.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from flashwam.core.scenes import NOISES_APART
from flashwam.data.actions import quantiles, rare
from flashwam.data.control_names import ControlNames
from flashwam.data.episodes import read_info
from flashwam.data.raw_windows import RawWindow, RawWindows
from flashwam.data.segments import select_repos
from flashwam.evaluation.drawn_controls import save_trajectories
from flashwam.evaluation.recordings import recording_numbers
from flashwam.evaluation.served_model import Greeting, described_by_server, refuse_earlier, served_how
from flashwam.evaluation.trajectories import Drawn
from flashwam.evaluation.windows import EVALUATED_WINDOWS
from flashwam.recipe.sections import DataConfig, Recipe
from flashwam.run.evaluation import Asked, Evaluation, evaluation_name
from flashwam.run.recordings import OnRecordings, RecordingNumbers
from flashwam.serve.client import PolicyClient, controls_between_pictures, greeted_cameras, greeted_number
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = ["evaluate_served_recordings"]

_LEAST_SPAN = 1e-6
_STILL = 0.2
_CHUNKS = 2


@dataclass(slots=True, kw_only=True)
class _Drawer:
    """A session that draws chunks under the recorded past.

    Args:
        client: The session.
        spent: Milliseconds of every chunk so far: of its round trip, and of the server's part where it tells that.
    """

    client: PolicyClient
    spent: list[dict[str, float]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Controls of the first chunk, which is drawn from the observation that it begins with."""
        per_frame, frames = (
            greeted_number(self.client.metadata, name) for name in ("actions_per_frame", "chunk_frames")
        )
        return per_frame * (frames - 1)

    @property
    def latency(self) -> dict[str, float]:
        """Medians."""
        names = dict.fromkeys(name for spent in self.spent for name in spent)
        return {name: statistics.median(spent[name] for spent in self.spent if name in spent) for name in names}

    def draw(self, window: RawWindow, *, seed: int, most: int = _CHUNKS) -> list[np.ndarray]:
        """Chunks of one window, each [F' * N, U]; its last one may reach beyond the window's rows."""
        self.client.reset(window.prompt, seed=seed)
        seen: Mapping[str, np.ndarray] | None = window.pictures([0])[0]
        chunks: list[np.ndarray] = []
        stride, done = controls_between_pictures(self.client.metadata), 0
        while len(chunks) < most and done < len(window.rows):
            began = time.perf_counter()
            reply = self.client.infer(seen)
            spent = {"chunk_ms": 1000 * (time.perf_counter() - began)}
            told = self.client.timing.get("infer_ms")
            self.spent.append(spent | ({"part/server_ms": float(told)} if isinstance(told, int | float) else {}))
            held = 1 if seen is not None else 0
            if reply.shape[0] != window.rows.shape[1]:
                raise InputError(
                    f"the recordings have {window.rows.shape[1]} controls, the server's model {reply.shape[0]}"
                )
            controls = reply[:, held:].transpose(1, 2, 0).reshape(-1, reply.shape[0])
            chunks.append(controls)
            following = done + len(controls)
            if len(chunks) == most or following >= len(window.rows):
                break
            state = reply.copy()
            happened = window.rows[done:following].reshape(-1, reply.shape[2], reply.shape[0])
            state[:, held:] = happened.transpose(2, 0, 1)
            self.client.refresh(window.pictures(range(done + stride, following + 1, stride)), state)
            seen, done = None, following
        return chunks


def evaluate_served_recordings(
    url: str,
    *,
    data: str | Path,
    tasks: Sequence[str] = (),
    recipe: Recipe | None = None,
    teacher: str | None = None,
    token: str | None = None,
    windows: int = EVALUATED_WINDOWS,
    draws: int = 8,
    seed: int = 0,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Measures a served model on raw recordings, with no simulator; two chunks of every window, where it is so long.

    Any server of LingBot-VA's protocol that tells chunk, cameras and pictures in its greeting can be judged. Pictures
    and controls go to it as a robot's would: nothing is converted before.

    Args:
        url: Such as "ws://127.0.0.1:29536".
        data: Folder of LeRobot v2.x or v3.x data sets, with the cameras that the server names.
        tasks: Data sets there, see `flashwam.data.segments.select_repos`; all if there are none.
        recipe: Its `data` section says which column the actions are and whether they are relative poses, see
            `action_key` and `relative_poses`; "action" and absolute if None.
        teacher: URL of the teacher's server, which draws from the same seeds; None where there is none.
        token: Where the servers ask for one.
        windows: Windows of episodes; one in four begins with its episode.
        draws: Of every window.
        seed: Of the noise; the windows are always the same.
        out: Folder for the result; `evaluations/recordings` of runs/served/<name> if None.

    Returns:
        One result, as written: like those of `evaluate_recordings`, without video; latency is a round trip's, and
        "part/server_ms" what the server says that it computed of it. All controls together are normalised by the 1 %
        and 99 % quantiles of these windows; by minimum and maximum where a control moves seldom, and by a range of 0.2
        where it never does.

    Raises:
        FileExistsError: There is a measurement of this name and step in `out`.
        FileNotFoundError, ValueError: The recordings are missing, damaged, or not of the server's robot.
    """
    on = OnRecordings(windows=windows, draws=draws, data=str(data), tasks=tuple(tasks))
    section = recipe.data if recipe else DataConfig()
    with PolicyClient(url, token) as client:
        student, told = _Drawer(client=client), client.metadata
        greeting = Greeting.read(told)
        name, nfe = greeting.name, greeting.nfe
        folder = user_path(out) if out is not None else greeting.run.recordings
        stem = f"{evaluation_name(greeting.step, nfe, served_how(told), seed)}_on_{user_path(data).resolve().name}"
        path = folder / f"{stem}.json"
        refuse_earlier(path)
        source = RawWindows(
            data,
            cameras=greeted_cameras(told),
            least=student.rows,
            key=section.action_key,
            relative=section.relative_poses,
            depth=section.depth_as_grey,
            tasks=on.tasks or None,
            senses=tuple(told.get("senses", ())),
        )
        found = [source.window(number) for number in range(windows)]
        if teacher is not None:
            _check_teacher(teacher, token, student, found[0])
        drawn = {"student": _drawn(student, found, draws, seed, label=f"{name}: {nfe} draws")}
    if teacher is not None:
        # Not before: a session that waits while the student draws is ended by its server.
        with PolicyClient(teacher, token) as client:
            label = f"{Greeting.read(client.metadata).name}: draws"
            drawn["teacher"] = _drawn(_Drawer(client=client), found, draws, seed, label=label)
    info = read_info(select_repos(data, on.tasks or None)[0])
    names = ControlNames.of_data(drawn["student"][0][0][0].shape[-1], relative=section.relative_poses, info=info)
    controls = _controls(drawn, found, names)
    kept = save_trajectories(controls, folder / f"{stem}_trajectories.npz")
    different = len({(one.episode.table, one.episode.index, one.first) for one in found})
    about = {"episodes": source.episodes, "draws": draws, "held_out": None, "trajectories": kept}
    result = _evaluation(
        url,
        greeting,
        on,
        recording_numbers(controls, names, windows=windows, different=different, **about),
        latency=student.latency,
        seed=seed,
    )
    result.write(path)
    return [result.to_json()]


def _evaluation(
    url: str,
    greeting: Greeting,
    on: OnRecordings,
    numbers: RecordingNumbers,
    *,
    latency: Mapping[str, float],
    seed: int,
) -> Evaluation:
    """The record of what was measured of a server that so greets."""
    return Evaluation(
        run=greeting.name,
        label=f"{greeting.name} {greeting.nfe} served",
        setting=greeting.nfe,
        tasks={},
        **described_by_server(greeting.told),
        asked=Asked(tasks=(), episodes=0, closed_loop=False, recordings=on),
        latency=latency,
        seed=seed,
        recordings=numbers,
        provenance=provenance(),
        more={"server": {"url": url, "model": greeting.told}},
    )


def _check_teacher(url: str, token: str | None, student: _Drawer, window: RawWindow) -> None:
    """Refuses, before anything is drawn in earnest, a teacher whose chunks are of another length."""
    ours = student.draw(window, seed=0, most=1)[0]
    student.spent.clear()
    with PolicyClient(url, token) as client:
        theirs = _Drawer(client=client).draw(window, seed=0, most=1)[0]
    _check_first(len(theirs), len(ours))


def _check_first(teacher: int, student: int) -> None:
    if teacher != student:
        raise InputError(f"the teacher's first chunk has {teacher} controls, the student's {student}")


def _drawn(drawer: _Drawer, windows: list[RawWindow], draws: int, seed: int, *, label: str) -> list[list[Any]]:
    """Window -> draw -> its chunks; the noise of a draw is that of its number, for every model."""
    return [
        [drawer.draw(window, seed=NOISES_APART * seed + number * draws + draw) for draw in range(draws)]
        for number, window in enumerate(tqdm(windows, desc=label, unit="window"))
    ]


def _controls(drawn: Mapping[str, list[list[Any]]], windows: list[RawWindow], names: ControlNames) -> Drawn:
    """All draws in arrays of one length, with what lies beyond a window's rows marked."""
    longest = max((one for window in drawn["student"] for one in window), key=len)
    chunk = np.repeat(np.arange(len(longest)), [len(part) for part in longest])
    total = len(chunk)
    for one in drawn.get("teacher", []):
        _check_first(len(one[0][0]), len(longest[0]))

    def padded(rows: np.ndarray) -> np.ndarray:
        return np.pad(rows[:total], ((0, max(0, total - len(rows))), (0, 0)))

    sides = {
        who: np.stack([[padded(np.concatenate(one)) for one in window] for window in found])
        for who, found in drawn.items()
    }
    valid = np.stack(
        [
            np.arange(total) < min(len(window.rows), sum(len(part) for part in one[0]))
            for window, one in zip(windows, drawn["student"], strict=True)
        ]
    )
    recorded = np.stack([padded(window.rows) for window in windows])
    low, span = _ranges(recorded[valid])

    def normalised(values: np.ndarray) -> np.ndarray:
        return np.asarray(2 * (values.astype(np.float64) - low) / span - 1.0)

    real = names.readable(recorded)
    shown = {**{who: names.readable(side, near=real[:, None]) for who, side in sides.items()}, "recorded": real}
    return Drawn(
        student=normalised(sides["student"]),
        teacher=normalised(sides["teacher"]) if "teacher" in sides else None,
        recorded=normalised(recorded),
        shown=shown,
        valid=valid,
        chunk=chunk,
        turns=names.turns,
    )


def _ranges(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower ends of controls, which become -1, and their ranges, each [U]: as `ActionNorm.fit` takes them, but
    those alone are widened that never move.

    Args:
        rows: [T, U].
    """
    low, high = quantiles(rows)
    least, most = rows.min(axis=0), rows.max(axis=0)
    seldom = rare(low, high, least, most)
    low, high = np.where(seldom, least, low), np.where(seldom, most, high)
    still = high - low <= _LEAST_SPAN
    return np.where(still, low.astype(np.float64) - _STILL / 2, low), np.where(still, _STILL, high - low)
