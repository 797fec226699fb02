# SPDX-License-Identifier: Apache-2.0
"""First chunks of a student beside its teacher's from the same noise, where a way has to be chosen."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from one_step_cells import Place
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.scenes import DEMO_SEED_BASE, evaluation_scene
from flashwam.distillation.futures import TeacherFuture
from flashwam.distillation.pair_source import NOISE
from flashwam.evaluation.policy import Policy
from flashwam.pipeline.training import make_pairs
from flashwam.sim.contract import Task
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.simulators import get_task, pooled_envs
from flashwam.sim.ways import chosen_ways
from flashwam.sim.world import World

STARTS, PAIRS, AT_ONCE = 250, 1024, 50
UNUSED = 900
"""Seed of an evaluation that no study makes."""
SCENES = {"demonstrated": DEMO_SEED_BASE, "new": evaluation_scene(UNUSED, 0)}
LEARNT, FRESH = "learnt from", "fresh"


def acting(policy: Policy, nfe: str, sampler: str = "own") -> LocalPolicy:
    """A model that is drawn in so many steps; `sampler` is that of `flashwam.core.sampler_name`."""
    return LocalPolicy(policy.wam, policy.samplers(nfe, sampler=sampler), policy.codec)


def several_ways(policy: Policy) -> list[Task]:
    """Those of its tasks that have several ways."""
    return [task for task in map(get_task, policy.info.tasks) if task.multimodal]


def beside(own: np.ndarray, teachers: np.ndarray, task: Task) -> dict[str, float]:
    """Shares of first chunks that choose a way, that do not where the teacher does, and that choose its way; and the
    mean distance of the controls, both [B, N, U]."""
    chosen, reference = chosen_ways(own, task), chosen_ways(teachers, task)
    both = (chosen >= 0) & (reference >= 0)
    return {
        "chooses": float((chosen >= 0).mean()),
        "teacher chooses": float((reference >= 0).mean()),
        "hesitates": float((chosen[reference >= 0] < 0).mean()),
        "same": float((chosen == reference)[both].mean()),
        "error": float(np.abs(own - teachers).mean()),
    }


def in_scenes(teacher: Policy, students: Mapping[int, Policy], nfe: Sequence[str]) -> Iterator[dict[str, Any]]:
    """First chunks in scenes of demonstrations and in new ones, by task, training and steps."""
    for task in several_ways(teacher):
        for scenes, base in SCENES.items():
            pictures = first_pictures(task, range(base, base + STARTS), teacher.wam.shapes["action"][1])
            reference = first_controls(teacher, "full", task, pictures)
            for seed, student in students.items():
                for steps in nfe:
                    own = first_controls(student, steps, task, pictures)
                    about = {"scenes": scenes, "task": task.name, "training": seed, "nfe": steps}
                    yield {**about, **beside(own, reference, task)}


def on_pairs(place: Place, seed: int, teacher: Policy, student: Policy, nfe: Sequence[str]) -> Iterator[dict[str, Any]]:
    """First chunks from the noise of pairs that a student learnt from, and from fresh noise at the same pictures."""
    source = make_pairs(place.recipe("pairs", seed))
    drawn: dict[str, list[tuple[Batch, dict[str, Tensor], dict[str, Tensor]]]] = {LEARNT: [], FRESH: []}
    ends = TeacherFuture(teacher.wam, teacher.samplers("full"))
    generator = torch.Generator().manual_seed(0)
    length = student.wam.chunk_frames
    # The first pool is that of episodes' first chunks.
    for begin in range(0, PAIRS, AT_ONCE):
        batch = source.of_pool(0, list(range(begin, begin + AT_ONCE)))
        noise = {name: batch.extra[f"{NOISE}{name}"] for name in batch.clean}
        drawn[LEARNT].append((batch, noise, batch.frames_of(slice(-length, None)).clean))
        noise = {name: torch.randn(x.shape, generator=generator) for name, x in noise.items()}
        drawn[FRESH].append((batch, noise, ends.draw(batch, noise)))
    for steps in nfe:
        own_ends = TeacherFuture(student.wam, student.samplers(steps))
        for kind, parts in drawn.items():
            own = [own_ends.draw(batch, noise) for batch, noise, _ in parts]
            ours, theirs = (
                _executed(student, torch.cat([end["action"] for end in ends]))
                for ends in (own, [end for _, _, end in parts])
            )
            text = torch.cat([batch.text for batch, _, _ in parts])
            for task in several_ways(student):
                rows = (text == student.codec.text(task.prompt)).flatten(1).all(1).numpy()
                about = {"noise": kind, "task": task.name, "training": seed, "nfe": steps, "draws": int(rows.sum())}
                yield {**about, **beside(ours[rows], theirs[rows], task)}


def _executed(policy: Policy, action: Tensor) -> np.ndarray:
    """Controls of the frames after the first, as many as are executed."""
    last = min(1 + policy.wam.execute_frames, policy.wam.chunk_frames)
    return policy.codec.controls(action[:, :, 1:last])


def first_pictures(task: Task, scenes: Sequence[int], per_frame: int) -> np.ndarray:
    """The first picture of every scene, uint8 [scenes, H, W, 3]."""
    envs = pooled_envs(task, min(AT_ONCE, len(scenes)), size=64)
    groups = [scenes[begin : begin + AT_ONCE] for begin in range(0, len(scenes), AT_ONCE)]
    return np.concatenate([World(envs[: len(group)], per_frame).reset(group) for group in groups])


def first_controls(
    policy: Policy, nfe: str, task: Task, pictures: np.ndarray, *, sampler: str = "own", noise: int = 0
) -> np.ndarray:
    """Controls of the first chunk in every scene, the same noise for every model, chosen by `noise`, [scenes, N, U]."""
    acts, drawn = acting(policy, nfe, sampler), []
    for begin in range(0, len(pictures), AT_ONCE):
        acts.reset(task.prompt, pictures[begin : begin + AT_ONCE], seed=noise + begin)
        drawn.append(acts.controls())
    return np.concatenate(drawn)
