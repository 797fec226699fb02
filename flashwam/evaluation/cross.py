# SPDX-License-Identifier: Apache-2.0
"""The video of every model crossed with the actions of every model, where one decides which way the other takes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.data.dataset import EpisodeDataset
from flashwam.data.latents import fingerprint
from flashwam.data.samples import to_batch
from flashwam.evaluation.open_loop import chunk_draws
from flashwam.evaluation.policy import Policy
from flashwam.run.model_note import MODELS
from flashwam.sim.simulators import get_task
from flashwam.sim.ways import chosen_ways
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.paths import user_path

__all__ = ["cross_table"]


def cross_table(
    sources: Mapping[str, tuple[Policy, str]], *, out: str | Path, draws: int = 2, episodes: int = 96
) -> dict[str, Any]:
    """Crosses the video of every model with the actions of every model on the multi-modal tasks' first chunk.

    Args:
        sources: Label -> (policy, steps such as "1v/1a"); rounded as their recipes say.
        out: Folder that gets `cross.json`.
        draws: Draws per episode.
        episodes: First observations, from held-out and training episodes of the multi-modal tasks.

    Returns:
        What is written, notes of the models aside: commitment, action error (against the last source's own draw) and
        each draw's way, -1 for none, by row (earlier streams) and column (last stream); draws of one place are of one
        noise and observation.

    Raises:
        ValueError: Models cannot be crossed: of their streams, their tasks, or because their autoencoders differ.
    """
    policies = [policy for policy, _ in sources.values()]
    if any(len(stage) > 1 for policy in policies for stage in policy.wam.stages):
        raise InputError("streams that are drawn together cannot be crossed: one model's video has its own actions")
    if any(policy.wam.probes for policy in policies):
        raise InputError("a model that looks at its video and never draws it cannot be crossed")
    _refuse_other_latents(sources)
    for policy in policies:
        policy.round_as_told()
    recipe = policies[0].info.recipe
    if recipe is None:
        raise InputError(f"{policies[0].folder} does not say which data it learnt from, so there is nothing to cross")
    several = [task for task in recipe.data.tasks if get_task(task).multimodal]
    if not several:
        raise InputError(f"a cross table needs a task with several ways; got {list(recipe.data.tasks)}")
    windows = EpisodeDataset(
        recipe.data.root,
        window_frames=recipe.data.window_frames,
        tasks=several,
        split="all",
        norm=policies[0].codec.actions,
        autoencoder=policies[0].autoencoder,
    )
    chosen = np.linspace(0, len(windows.episodes) - 1, min(episodes, len(windows.episodes))).astype(int)
    batch = to_batch(windows.first_windows(chosen.tolist()), windows.null_text)
    begun = np.repeat([windows.tasks[task] for task in windows.episodes[chosen, 0]], draws)
    *earlier, last = policies[0].wam.streams
    own = {
        label: chunk_draws(policy.wam, policy.samplers(nfe), batch, draws=draws, chunks=1)[0]
        for label, (policy, nfe) in sources.items()
    }
    reference = own[list(sources)[-1]][last]
    labels = list(sources)
    table: dict[str, list[list[Any]]] = {"commitment": [], "action_error": [], "taken": []}
    for row in labels:
        given = [{name: own[row][name] for name in earlier}]
        committed, errors, taken = [], [], []
        for column in labels:
            policy, nfe = sources[column]
            drawn = chunk_draws(policy.wam, policy.samplers(nfe), batch, draws=draws, chunks=1, replace=given)[0][last]
            ways = _ways(policy.codec.controls(drawn[:, :, 1:]), begun)
            committed.append(float((ways >= 0).mean()))
            taken.append(ways.tolist())
            errors.append(float(((drawn - reference)[:, :, 1:] ** 2).mean()))
        table["commitment"].append(committed)
        table["action_error"].append(errors)
        table["taken"].append(taken)
    result = {"rows": labels, "columns": labels, **table, "draws": len(chosen) * draws, "tasks": several}
    models = {label: policy.note(out) for label, (policy, _) in sources.items()}
    write_whole(user_path(out) / "cross.json", json.dumps({**result, MODELS: models}, indent=1) + "\n")
    return result


def _ways(controls: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """The way that every first chunk takes, as the closed loop tells it; of controls [B, T, U] in tasks [B]."""
    ways = np.empty(len(tasks), dtype=int)
    for name in np.unique(tasks):
        ways[tasks == name] = chosen_ways(controls[tasks == name], get_task(str(name)))
    return ways


def _refuse_other_latents(sources: Mapping[str, tuple[Policy, str]]) -> None:
    """One model's video means nothing to a model of other latents."""
    used = {
        label: None if policy.autoencoder is None else fingerprint(policy.autoencoder)
        for label, (policy, _) in sources.items()
    }
    if len(set(used.values())) > 1:
        told = ", ".join(f"{label} {name}" for label, name in used.items())
        raise InputError(
            f"models of different autoencoders cannot be crossed ({told}): take a teacher and students of it"
        )
