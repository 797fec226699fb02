# SPDX-License-Identifier: Apache-2.0
"""A suite of LIBERO without LIBERO: tasks in files, environments that count, and a session that records."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flashwam.evaluation import libero_episodes, libero_suite
from flashwam.sim.libero import LiberoTask
from flashwam.sim.libero.conventions import CAMERAS

__all__ = ["MODEL", "Counting", "Recording", "libero_stand_in"]

MODEL = {
    "name": "student",
    "kind": "student",
    "step": 7,
    "nfe": {"video": 1, "action": 1},
    "cameras": list(CAMERAS),
    "controls": 7,
    "keyframes_per_frame": 4,
    "actions_per_frame": 4,
    "streams": {"video": {"guidance_scale": 5.0}},
}


class Counting:
    """An environment whose pictures show the step, and that succeeds at one."""

    size, cameras, prompt = 2, tuple(CAMERAS), "count"

    def __init__(self, *, ends=1000, succeeds=1000):
        self.ends, self.succeeds, self.done = ends, succeeds, []

    success = property(lambda self: self.steps >= self.succeeds)
    steps = property(lambda self: len(self.done))
    proprioception = property(lambda self: np.full(8, self.steps, dtype=np.float64))

    def reset(self, scene, *, render=True):
        self.scene, self.done = scene, []

    def step(self, action):
        self.done.append(action)
        return self.success or self.steps >= self.ends, self.success, SimpleNamespace(step=self.steps)

    def render(self):
        return np.full((self.size, self.size, 3), self.steps, dtype=np.uint8)

    def look(self):
        return dict.fromkeys(self.cameras, self.render())

    def close(self):
        self.done = None


class Recording:
    """A session with a server that answers with numbered controls."""

    def __init__(self, metadata=MODEL, per_frame=4):
        self.metadata, self.per_frame, self.asked, self.chunks = metadata, per_frame, [], 0

    def reset(self, prompt, *, seed=None):
        self.asked.append(("reset", prompt, seed))

    def infer(self, observation=None):
        self.asked.append(("infer", observation))
        self.chunks += 1
        return np.arange(7 * 4 * self.per_frame, dtype=np.float32).reshape(7, 4, self.per_frame) + 1000 * self.chunks

    def refresh(self, observations, state):
        self.asked.append(("refresh", observations, state))

    def close(self):
        self.asked.append(("close",))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def libero_stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, *, size: int = 2) -> SimpleNamespace:
    """Puts three tasks of a suite in LIBERO's place, each of which succeeds ten steps after the one before.

    Args:
        monkeypatch: For what drives LIBERO.
        folder: For the tasks' files.
        size: Height and width of the pictures.

    Returns:
        The `tasks`; `driven` and `stops`, (task, scene) of episodes that were begun, and of those that interrupt; all
        `controls` of all episodes; and `out`, a folder for results.
    """
    text = "(define (problem p) (:language do {}) (:goal (And (On a b))))"
    tasks = []
    for index in range(3):
        files = {"bddl_file": folder / f"{index}.bddl", "states_file": folder / f"{index}.npz"}
        files["bddl_file"].write_text(text.format(index))
        np.savez(files["states_file"], states=np.zeros((4, 2)))
        tasks.append(LiberoTask(suite="libero_10", index=index, name=f"do_{index}", **files))
    stops, driven, controls = set(), [], []

    class Stopping(Counting):
        def reset(self, scene, *, render=True):
            if (self.task.index, scene) in stops:
                raise KeyboardInterrupt
            driven.append((self.task.index, scene))
            super().reset(scene, render=render)

        def step(self, action):
            controls.append(np.array(action))
            return super().step(action)

    def environment(task, *, convention):
        env = Stopping(ends=convention.max_steps, succeeds=13 + 10 * task.index)
        env.task, env.size, env.prompt = task, size, task.prompt
        return env

    monkeypatch.setattr(libero_suite, "require_packages", lambda: None)
    monkeypatch.setattr(libero_suite, "suite_tasks", lambda name: tuple(tasks))
    monkeypatch.setattr(libero_episodes, "LiberoEnv", environment)
    return SimpleNamespace(tasks=tasks, driven=driven, stops=stops, controls=controls, out=folder / "out")
