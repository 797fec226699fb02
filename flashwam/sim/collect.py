# SPDX-License-Identifier: Apache-2.0
"""Collects demonstrations: scripted experts, disturbed by bursts of noise, labelled with what the expert would do.

The executed action is expert plus noise, so that the data also shows how to come back; the label (`action`) is always
the clean expert action, and `executed_action` keeps what was really done.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.core.scenes import DEMO_ATTEMPTS, DEMO_EPISODES, EVAL_SEED_BASE, demonstration_scene
from flashwam.data.episodes import CAMERA, LOSSY, current_meta, episode_path, read_info, write_episode, write_meta
from flashwam.sim.contract import ScriptedEnvironment, Task
from flashwam.sim.gl import ensure_gl
from flashwam.sim.simulators import get_task, make_env
from flashwam.sim.ways import toss_way
from flashwam.system.changed_settings import changed_settings
from flashwam.system.errors import FailedError, InputError
from flashwam.system.files import in_use, one_at_a_time, write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path
from flashwam.system.workers import done_by_processes

__all__ = ["RECORDING", "CollectSummary", "NoiseBursts", "collect", "record_episode"]

logger = logging.getLogger(__name__)

RECORDING = "recording.json"
"""Says that the episodes of a folder are a model's own, and whose."""
_SETTINGS, _IN_USE = "collection.json", ".collecting"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseBursts:
    """Disturbance of the executed actions.

    Attributes:
        probability: Chance that a burst begins at a control step.
        scale: Standard deviation of a burst's constant push on each axis of the hand.
        shortest, longest: Control steps a burst lasts.
    """

    probability: float = 0.08
    scale: float = 0.7
    shortest: int = 2
    longest: int = 7

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or self.scale < 0 or not 1 <= self.shortest <= self.longest:
            raise InputError(f"noise: expected probability in [0, 1], scale >= 0, 1 <= shortest <= longest; got {self}")

    def draw(self, steps: int, rng: np.random.Generator, *, controls: int = 4) -> np.ndarray:
        """Draws the disturbance of an episode, [steps, controls]; all but the first three are left alone."""
        out = np.zeros((steps, controls))
        step = 0
        while step < steps:
            if rng.random() < self.probability:
                length = int(rng.integers(self.shortest, self.longest + 1))
                out[step : step + length, :3] = self.scale * rng.normal(size=3)
                step += length
            else:
                step += 1
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSummary:
    """The summary of a collection; all by task name.

    Attributes:
        episodes: Episodes on disk.
        failed: Attempts in which the expert failed, which were dropped.
        frames: Control steps on disk.
        ways: Episodes per way.
    """

    episodes: dict[str, int]
    failed: dict[str, int]
    frames: dict[str, int]
    ways: dict[str, dict[int, int]]


_ENVS: dict[tuple[Task, int], ScriptedEnvironment] = {}


def _environment(name: str, size: int, max_steps: int | None) -> ScriptedEnvironment:
    """The one environment of a process, which comes task by task."""
    task = get_task(name)
    key = (task if max_steps is None else replace(task, max_steps=max_steps), size)
    if key not in _ENVS:
        for env in _ENVS.values():
            env.close()
        _ENVS.clear()
        _ENVS[key] = make_env(key[0], size=size)
    return _ENVS[key]


def record_episode(
    env: ScriptedEnvironment, seed: int, *, noise: NoiseBursts, way: int = -1, render_every: int = 4
) -> tuple[dict[str, np.ndarray], np.ndarray, int] | None:
    """Plays one demonstration.

    Args:
        env: The environment.
        seed: Decides positions and noise.
        noise: The disturbance.
        way: Index into the task's ways; -1 for an ordinary task.
        render_every: Control steps between pictures; the rows between hold the last one.

    Returns:
        Columns [T, ...], pictures [T, H, W, 3] and the way taken, or None if the expert failed. T = 1 modulo
        `render_every`, so that the last row has a picture of its own.
    """
    task = env.task
    pushes = noise.draw(task.max_steps, np.random.default_rng([seed, 1]), controls=task.controls)
    picture = env.reset(seed)
    expert = env.expert(way)
    actions, executed, states, pictures = [], [], [], []
    end = None
    for step in range(task.max_steps + 2 * render_every + 1):
        if step and step % render_every == 0:
            picture = env.render()
        action = expert()
        actions.append(action)
        states.append(env.proprioception)
        pictures.append(picture)
        done = np.clip(action + pushes[step], -1.0, 1.0) if end is None and step < task.max_steps else action
        executed.append(done)
        if step == end:
            break
        over, success, _ = env.step(done)
        if end is None:
            if success:
                # A little of what follows success, up to the next picture but one.
                end = (step // render_every + 2) * render_every
            elif over:
                return None
    columns = {
        "action": np.stack(actions).astype(np.float32),
        "executed_action": np.stack(executed).astype(np.float32),
        "observation.state": np.stack(states).astype(np.float32),
    }
    return columns, np.stack(pictures), env.way()


def _collect_one(job: dict[str, Any]) -> tuple[str, int]:
    """Writes one episode, unless it is complete already. Its content depends on its own number and seed alone."""
    repo, index = Path(job["repo"]), job["index"]
    if episode_path(repo, index).exists():
        return job["task"], index
    env = _environment(job["task"], job["image_size"], job["max_steps"])
    first = demonstration_scene(job["seed"], index)
    way = toss_way(env.task, index, job["seed"])
    for attempt in range(DEMO_ATTEMPTS):
        seed = first + attempt
        episode = record_episode(env, seed, noise=job["noise"], way=way, render_every=job["render_every"])
        if episode is None:
            continue
        columns, pictures, taken = episode
        prompt = env.task.prompt
        length = len(pictures)
        record = {
            "tasks": [prompt],
            "action_config": [{"start_frame": 0, "end_frame": length, "action_text": prompt}],
            "way": taken,
            "seed": seed,
            "failed_attempts": attempt,
        }
        write_episode(
            repo,
            index,
            columns=columns,
            frames=pictures,
            record=record,
            fps=env.task.control_hz,
            crf=None if job["lossless"] else LOSSY,
        )
        return job["task"], index
    raise FailedError(
        f"{job['task']}, episode {index}: the expert failed {DEMO_ATTEMPTS} times in a row; "
        "lower the noise or raise max_steps"
    )


def collect(
    root: Path | str,
    tasks: Sequence[str],
    *,
    episodes: int | dict[str, int],
    seed: int = 0,
    processes: int = 2,
    noise: NoiseBursts | None = None,
    image_size: int = 64,
    lossless: bool = False,
    render_every: int = 4,
    max_steps: int | None = None,
    progress: bool = True,
) -> CollectSummary:
    """Collects demonstrations of several tasks; run again after an interruption, it completes what is missing.

    Args:
        root: Folder that receives one repo per task.
        tasks: Task names.
        episodes: Episodes per task, one number or one per task name.
        seed: 0 to 9; another seed gives other demonstrations.
        processes: Worker processes.
        noise: Disturbance of the executed actions.
        image_size: Height and width of the pictures.
        lossless: Keep every pixel; recordings of robots do not.
        render_every: Control steps between pictures.
        max_steps: Control steps an episode may take; None takes each task's.
        progress: Show a progress bar with the time left.

    Returns:
        Counts per task.

    Raises:
        ValueError: A setting makes no sense, or a task's episodes are there that were collected otherwise.
        RuntimeError: The expert failed too often.
    """
    root, noise = user_path(root), noise or NoiseBursts()
    if (root / RECORDING).exists():
        raise InputError(
            f"{root} holds a model's own episodes ({RECORDING}): collect demonstrations into another folder"
        )
    counts = {get_task(t).name: episodes if isinstance(episodes, int) else episodes.get(t, 0) for t in tasks}
    bad = [t for t, n in counts.items() if not 1 <= n <= DEMO_EPISODES]
    if bad:
        raise InputError(f"episodes: expected 1 to {DEMO_EPISODES} for every task, got {counts}")
    if seed < 0 or demonstration_scene(seed + 1, 0) > EVAL_SEED_BASE:
        raise InputError(f"seed: expected 0 to {EVAL_SEED_BASE // (DEMO_EPISODES * DEMO_ATTEMPTS) - 1}, got {seed}")
    if processes < 1 or render_every < 1:
        raise InputError(f"processes and render_every must be at least 1, got {processes} and {render_every}")
    ensure_gl()
    common = {
        "seed": seed,
        "noise": noise,
        "image_size": image_size,
        "lossless": lossless,
        "render_every": render_every,
        "max_steps": max_steps,
    }
    with ExitStack() as held:
        with one_at_a_time(root):
            alone = held.enter_context(in_use(root / _IN_USE))
            for task in counts:
                _claim(root / task, common, alone=alone)
        jobs = [
            dict(common, task=task, repo=str(root / task), index=index)
            for task, count in counts.items()
            for index in range(count)
            if not episode_path(root / task, index).exists()
        ]
        total = sum(counts.values())
        logger.info("collecting %d episodes (%d already there)", total, total - len(jobs))
        _run(jobs, processes, total, progress)
        return _finish(root, counts, render_every)


def _claim(repo: Path, common: dict[str, Any], *, alone: bool) -> None:
    """Notes the settings that a task's episodes are collected with. Those of which none was made bind nobody.

    Args:
        repo: The task's folder.
        common: The settings.
        alone: No other process is collecting there.

    Raises:
        ValueError: Episodes are there, or are under way, that were to be collected otherwise.
    """
    asked, path = {**common, "noise": asdict(common["noise"])}, repo / _SETTINGS
    empty = next(repo.glob("data/chunk-*/episode_*.parquet"), None) is None
    if empty and (alone or not path.is_file()):
        write_whole(path, json.dumps(asked, indent=2) + "\n")
        return
    noted = read_mapping(path) if path.is_file() else _shown_by(repo)
    # Nothing but lossy pictures was collected before this was noted.
    if changed := changed_settings({"lossless": False, **noted}, asked):
        told = "is being filled with demonstrations" if empty else "holds demonstrations"
        raise InputError(
            f"{repo} {told} that were collected otherwise ({changed}): collect into another folder (data.root), or ask "
            "for the same settings"
        )


def _shown_by(repo: Path) -> dict[str, Any]:
    """The settings that episodes tell themselves, which were collected before settings were noted."""
    if not (repo / "meta" / "info.json").is_file():
        return {}
    info = read_info(repo)
    shape = info.get("features", {}).get(CAMERA, {}).get("shape")
    told = {"image_size": shape[0] if shape else None, "render_every": info.get("render_every")}
    return {name: value for name, value in told.items() if value is not None}


def _run(jobs: list[dict[str, Any]], processes: int, total: int, progress: bool) -> None:
    from tqdm import tqdm

    processes = min(processes, max(1, len(jobs)))
    with tqdm(total=total, initial=total - len(jobs), unit="episode", disable=not progress, smoothing=0.05) as bar:
        if processes == 1:
            for job in jobs:
                bar.set_postfix_str(_collect_one(job)[0])
                bar.update()
            return
        with closing(done_by_processes(_collect_one, jobs, processes=processes, what="collecting")) as done:
            for task, _ in done:
                bar.set_postfix_str(task)
                bar.update()


def _finish(root: Path, counts: dict[str, int], render_every: int) -> CollectSummary:
    out: dict[str, dict] = {"episodes": {}, "failed": {}, "frames": {}, "ways": {}}
    for task in counts:
        hz, robot = get_task(task).control_hz, get_task(task).robot
        extra = {"render_every": render_every, "camera": CAMERA, "task": task, "robot_type": robot}
        # Every training asks; what it does not read here, it reads as it loads the episodes.
        records = current_meta(root / task, extra=extra) or write_meta(root / task, fps=hz, extra=extra)
        ways = [record["way"] for record in records]
        out["episodes"][task] = len(records)
        out["failed"][task] = sum(record["failed_attempts"] for record in records)
        out["frames"][task] = sum(record["length"] for record in records)
        out["ways"][task] = {way: ways.count(way) for way in sorted(set(ways))}
        logger.info("%s: %d episodes, %d attempts dropped", task, len(records), out["failed"][task])
    return CollectSummary(**out)
