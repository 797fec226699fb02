# SPDX-License-Identifier: Apache-2.0
"""Records of the simulator for recorded episodes: depth, classes of things, the hand's path, by playing them again.

Physics is a function of the seed and the executed actions, so nothing of this has to be recorded with the episodes.
See `flashwam.data.privileged` for what is written.
Letters: P pictures, H, W pixels, T control steps.
"""

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from flashwam.data.episodes import (
    CAMERA,
    episode_path,
    read_episode_list,
    read_frames,
    read_info,
    read_table,
    video_path,
)
from flashwam.data.privileged import Privileged, privileged_path
from flashwam.data.segments import repos_by_name
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.views import PrivilegedView
from flashwam.system.errors import FailedError, InputError
from flashwam.system.workers import done_by_processes

__all__ = ["replay_episode", "replay_episodes"]

logger = logging.getLogger(__name__)

_STATE_ERROR = 1e-4
_PICTURE_ERROR = 16.0


def replay_episode(
    env: MetaWorldEnv,
    seed: int,
    *,
    executed: np.ndarray,
    states: np.ndarray,
    frames: np.ndarray,
    every: int,
) -> Privileged:
    """Plays one recorded episode again.

    Args:
        env: An environment of its task.
        seed: The episode's.
        executed: What was done, [T, 4].
        states: `observation.state` as recorded, hand first, [T, S]; the replay is compared with it at every step.
        frames: The first and the last recorded picture, uint8 [2, H, W, 3], likewise.
        every: Control steps between pictures.

    Raises:
        RuntimeError: The replay is not what was recorded.
    """
    env.reset(seed, render=False)
    view = PrivilegedView(env)
    rows = np.arange(0, len(executed), every)
    depth, segmentation, hand = [], [], []
    for step, action in enumerate(executed):
        apart = float(np.abs(env.state[: states.shape[1]] - states[step]).max())
        if not apart <= _STATE_ERROR:
            raise FailedError(
                f"{env.task.name}, seed {seed}: at step {step} the replay is {apart:.2g} away from what was recorded "
                f"(at most {_STATE_ERROR:g}); was it recorded with another version of MetaWorld or MuJoCo?"
            )
        hand.append(env.state[:3].copy())
        if step % every == 0:
            depth.append(view.depth())
            segmentation.append(view.segmentation())
            if step in (rows[0], rows[-1]):
                _check_picture(env, seed, step, frames[int(step != rows[0])])
        env.step(action)
    camera = view.camera()
    return Privileged(
        rows=rows,
        depth=np.stack(depth).astype(np.float16),
        segmentation=np.stack(segmentation),
        hand=np.stack(hand).astype(np.float32),
        hand_pixels=(camera.project(np.stack(hand)) / env.size).astype(np.float32),
        intrinsics=camera.intrinsics.astype(np.float32),
        pose=camera.pose.astype(np.float32),
    )


def _check_picture(env: MetaWorldEnv, seed: int, step: int, recorded: np.ndarray) -> None:
    error = float(np.sqrt(np.mean((env.render().astype(np.float64) - recorded) ** 2)))
    if error > _PICTURE_ERROR:
        raise FailedError(
            f"{env.task.name}, seed {seed}: the picture at step {step} differs from the recorded one by "
            f"{error:.1f} levels (root mean square, at most {_PICTURE_ERROR:g}); was the task's camera changed since?"
        )


def replay_episodes(
    root: Path | str, tasks: Sequence[str] | None = None, *, processes: int = 2, progress: bool = True
) -> int:
    """Makes the privileged record of every episode below `root` that has none; run again, it goes on.

    Args:
        root: Folder of the repos that `flashwam collect` made.
        tasks: Names of repo folders; None for all.
        processes: Worker processes.
        progress: Show a progress bar with the time left.

    Returns:
        Records written.

    Raises:
        FileNotFoundError: There are no episodes, or none of a task.
        RuntimeError: An episode cannot be played again.
    """
    from tqdm import tqdm

    if processes < 1:
        raise InputError(f"processes must be at least 1, got {processes}")
    chosen = repos_by_name(root, tasks)
    listed = [(str(repo), episode) for repo in chosen for episode in read_episode_list(repo)]
    jobs = [job for job in listed if not privileged_path(Path(job[0]), job[1]["episode_index"]).exists()]
    logger.info("playing %d episodes again (%d done already)", len(jobs), len(listed) - len(jobs))
    processes = min(processes, max(1, len(jobs)))
    with tqdm(
        total=len(listed), initial=len(listed) - len(jobs), unit="episode", desc="replay", disable=not progress
    ) as bar:
        if processes == 1:
            for job in jobs:
                _replay_one(job)
                bar.update()
            return len(jobs)
        with closing(done_by_processes(_replay_one, jobs, processes=processes, what="replaying")) as done:
            for _ in done:
                bar.update()
    return len(jobs)


_ENVS: dict[tuple[str, int], MetaWorldEnv] = {}


def _replay_one(job: tuple[str, dict]) -> None:
    """Writes one record. Its content depends on the episode alone."""
    repo, episode = Path(job[0]), job[1]
    index, info = int(episode["episode_index"]), read_info(repo)
    every, height = int(info.get("render_every", 1)), int(info["features"][CAMERA]["shape"][0])
    task = str(info.get("task", repo.name))
    if "seed" not in episode:
        raise InputError(f"{repo}, episode {index}: its record names no seed to play it again from")
    if (task, height) not in _ENVS:
        _ENVS[task, height] = MetaWorldEnv(task, size=height)
    table = read_table(episode_path(repo, index), ["executed_action", "observation.state"])
    last = (len(table["executed_action"]) - 1) // every * every
    record = replay_episode(
        _ENVS[task, height],
        int(episode["seed"]),
        executed=table["executed_action"],
        states=table["observation.state"],
        frames=read_frames(video_path(repo, index), sorted({0, last})),
        every=every,
    )
    record.save(privileged_path(repo, index))
