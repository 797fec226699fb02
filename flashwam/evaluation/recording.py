# SPDX-License-Identifier: Apache-2.0
"""Records what a model does in closed loop, in the layout of collected demonstrations.

Every episode is kept, successful or not: its controls and the pictures that the model saw, to the bit, and their
latents by its own autoencoder in full precision. A row is a control; its picture is the last one before it.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flashwam.core.scenes import recorded_scene
from flashwam.data.codec import Codec
from flashwam.data.episodes import CAMERA, episode_path, write_episode, write_meta
from flashwam.data.fingerprint import tensors_fingerprint
from flashwam.data.latents import ACTION_NORM, EMPTY_TEXT, fingerprint, latent_path, write_latents
from flashwam.evaluation.policy import Policy, load_policy
from flashwam.sampling import StreamSampler
from flashwam.sim.closed_loop import drive
from flashwam.sim.collect import RECORDING
from flashwam.sim.contract import ScriptedEnvironment, Task
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.simulators import get_task
from flashwam.sim.tape import TapedEnv
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import write_torch

__all__ = ["Recorded", "record"]

logger = logging.getLogger(__name__)

_TOGETHER = 25
_PICTURE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Counts of a recording, by task name.

    Attributes:
        episodes: Episodes on disk.
        success: Those that succeeded.
        frames: Pictures that the model saw.
    """

    episodes: dict[str, int]
    success: dict[str, int]
    frames: dict[str, int]


def record(
    checkpoint: str | Path,
    out: str | Path,
    *,
    episodes: int | None = None,
    nfe: str = "1v/1a",
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    trust: bool = False,
    progress: bool = True,
) -> Recorded:
    """Drives a model in scenes that neither demonstrations nor evaluations have, and writes its episodes.

    The model is driven in the precision that its recipe names, as `flashwam.evaluate` drives it. Run again after an
    interruption, or for more tasks or episodes, it completes what is missing. Episodes are driven 25 at a time, those
    of one noise.

    Args:
        checkpoint: A teacher's or student's folder, or a run folder.
        out: Folder that receives one repo per task; of this model and these settings alone.
        episodes: Per task; as many as the recipe evaluates if None.
        nfe: Steps per stream and chunk, such as "1v/2a"; "full" for the teacher's own.
        tasks: The recipe's if None.
        seed: Of scenes and noise.
        trust: Import the classes that its files name beside ours, and run their code.
        progress: Show a bar with the time left.

    Raises:
        ValueError: The folder holds other episodes, or the model's pictures are not encoded one by one.
    """
    policy, root = load_policy(checkpoint, trust=trust), user_path(out)
    chosen, count = policy.request(tasks, episodes)
    names = [get_task(task).name for task in chosen]
    if not isinstance(policy.codec, Codec):
        raise InputError(f"{checkpoint} encodes several pictures at once; a model of the simulator's data is needed")
    recorded_scene(seed, count - 1)
    samplers = policy.samplers(nfe)
    _claim(root, policy, samplers, seed=seed)
    # Its weights are told by their own numbers.
    policy.round_as_told()
    missing = {task: [n for n in range(count) if not episode_path(root / task, n).exists()] for task in names}
    left = sum(map(len, missing.values()))
    with tqdm(total=count * len(names), initial=count * len(names) - left, unit="episode", disable=not progress) as bar:
        for task, numbers in missing.items():
            bar.set_postfix_str(task)
            for begin in range(0, count, _TOGETHER):
                group = range(begin, min(begin + _TOGETHER, count))
                wanted = [number for number in numbers if number in group]
                if wanted:
                    _record_group(root, policy, samplers, get_task(task), group, wanted, seed)
                    bar.update(len(wanted))
    return _finish(root, names, policy)


def _claim(root: Path, policy: Policy, samplers: dict[str, StreamSampler], *, seed: int) -> None:
    """Notes whose episodes a folder holds.

    Raises:
        ValueError: They are others'.
    """
    made = {
        "model": tensors_fingerprint(policy.wam.state_dict()),
        "autoencoder": fingerprint(policy.codec.autoencoder),
        "samplers": {name: sampler.settings for name, sampler in samplers.items()},
        "settings": dict(policy.wam.decided_by),
        "actions": policy.codec.actions.to_dict(),
        "seed": seed,
        "precision": policy.info.precision,
    }
    path = root / RECORDING
    if path.is_file():
        told = json.loads(json.dumps(made))
        # An older recording, made in the model's own precision, tells none, and not what is said beside weights.
        before = {**told, "precision": "own", **read_mapping(path)}
        changed = [key for key, value in told.items() if before.get(key) != value]
        if changed:
            raise InputError(
                f"{root} holds episodes of {before.get('folder')} that were recorded with another "
                f"{', '.join(changed)}: record into another folder"
            )
        return
    if any(root.glob("*/meta/info.json")) or any(root.glob("*/data/chunk-*/episode_*.parquet")):
        raise InputError(f"{root} holds episodes that were not recorded of a model: record into another folder")
    write_whole(root / ACTION_NORM, json.dumps(policy.codec.actions.to_dict(), indent=2).encode())
    write_torch(root / EMPTY_TEXT, policy.codec.text(""))
    write_whole(path, json.dumps({**made, "folder": str(policy.folder), "name": policy.name}, indent=2) + "\n")


def _record_group(
    root: Path,
    policy: Policy,
    samplers: dict[str, StreamSampler],
    task: Task,
    group: range,
    wanted: Sequence[int],
    seed: int,
) -> None:
    """Drives episodes in lock-step and writes those that are wanted."""
    scenes = [recorded_scene(seed, number) for number in group]
    tapes: list[TapedEnv] = []

    def taped(env: ScriptedEnvironment) -> TapedEnv:
        tapes.append(TapedEnv(env))
        return tapes[-1]

    local = LocalPolicy(policy.wam, samplers, policy.codec)
    # The scenes' numbers, which no evaluation has, are the seed of the noise too.
    result = drive(local, task, episodes=len(group), seed=scenes[0], size=_PICTURE, scenes=scenes, seen_as=taped)
    for place, number in enumerate(group):
        if number in wanted:
            told = {"success": result.success[place], "way": result.ways[place], "seed": scenes[place]}
            _write(root / task.name, number, tapes[place], policy, task, told)


def _write(repo: Path, number: int, tape: TapedEnv, policy: Policy, task: Task, told: dict[str, Any]) -> None:
    prompt, per_frame = task.prompt, policy.wam.shapes["action"][1]
    rows = range(0, tape.rows[-1] + 1, per_frame)
    if list(rows) != tape.rows:
        raise ValueError(f"expected a picture every {per_frame} controls; got some after {tape.rows}")
    segments = []
    # A lone picture shows no past.
    if len(rows) > 1:
        segments = [{"start_frame": 0, "end_frame": rows[-1] + 1, "action_text": prompt}]
        write_latents(
            latent_path(repo, number, 0, rows[-1] + 1),
            policy.codec.video(tape.frames()[None, list(rows)])[0].transpose(0, 1),
            text=policy.codec.text(prompt),
            prompt=prompt,
            rows=rows,
            end=rows[-1] + 1,
            fps=task.control_hz,
            size=tape.frames().shape[1:3],
            made_by=fingerprint(policy.codec.autoencoder),
        )
    write_episode(
        repo,
        number,
        columns=tape.columns(),
        frames=tape.frames(),
        record={"tasks": [prompt], "action_config": segments, **told},
        fps=task.control_hz,
        crf=None,
    )


def _finish(root: Path, tasks: Sequence[str], policy: Policy) -> Recorded:
    per_frame = policy.wam.shapes["action"][1]
    counts = Recorded(episodes={}, success={}, frames={})
    for task in tasks:
        told = get_task(task)
        extra = {"render_every": per_frame, "camera": CAMERA, "task": task, "recorded": policy.name}
        extra["robot_type"] = told.robot
        records = write_meta(root / task, fps=told.control_hz, extra=extra)
        counts.episodes[task] = len(records)
        counts.success[task] = sum(bool(one["success"]) for one in records)
        counts.frames[task] = sum(1 + (one["length"] - 1) // per_frame for one in records)
    return counts
