# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint: closed loop, open loop, latency, pictures; one JSON file per setting."""

import json
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.steps import nfe_text, parse_nfe
from flashwam.core.streams import StreamSpec
from flashwam.data.codec import Codec
from flashwam.data.dataset import EpisodeDataset, to_batch
from flashwam.evaluation.open_loop import chunk_draws, open_loop_measures
from flashwam.evaluation.record import drive_tasks, measure_once, measurement
from flashwam.sampling import Rollout, StreamSampler, samplers_for
from flashwam.sim.closed_loop import run_task
from flashwam.sim.tasks import commitment, get_task
from flashwam.student import WamInfo, load_wam, model_folder
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.imports import trusting
from flashwam.system.paths import user_path
from flashwam.wam.base import WorldActionModel
from flashwam.wam.files import files_of_codec

__all__ = [
    "Policy",
    "chunk_latency",
    "cross_table",
    "described",
    "evaluate",
    "latency_label",
    "latency_table",
    "latency_timers",
    "load_policy",
    "time_in_turns",
]

logger = logging.getLogger(__name__)

DRAWS = 4
LATENCY_CHUNKS = 7
_FILM_COLUMNS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A loaded checkpoint with everything it needs to act.

    Args:
        folder: Where it came from.
        wam: The model, in evaluation mode.
        info: What its `flashwam.json` says.
        codec: Its codecs: a `Codec`, or what a family has in its place, see `FamilyFiles.frame_codec`.
    """

    folder: Path
    wam: WorldActionModel
    info: WamInfo
    codec: Codec

    @property
    def run(self) -> Path:
        """The run it belongs to."""
        return self.folder.parents[1] if self.folder.parent.name == "steps" else self.folder.parent

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.info.extra.get("name", self.run.name))

    @property
    def specs(self) -> Mapping[str, StreamSpec]:
        """Its streams."""
        return self.info.streams

    def samplers(self, nfe: str, *, plain_euler: bool = False) -> dict[str, StreamSampler]:
        """Samplers for steps such as "1v/2a"."""
        steps = parse_nfe(nfe, tuple(self.wam.streams))
        teacher = self.info.kind == "teacher"
        return samplers_for(self.specs, steps=steps, teacher=teacher, plain_euler=plain_euler)


def load_policy(folder: str | Path, *, trust: bool = False) -> Policy:
    """Loads a checkpoint folder, or the result of a run folder.

    Args:
        folder: The checkpoint's or the run's.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError: there is none.
        ValueError: its pictures cannot be encoded one by one.
    """
    folder = model_folder(folder)
    wam, info = load_wam(folder, trust=trust)
    with trusting(trust):
        files = files_of_codec(folder)
    dtype = next(wam.parameters()).dtype
    codec = Codec.load(folder) if files is None else files.frame_codec(folder, dtype=dtype, device="cpu")
    return Policy(folder=folder, wam=wam.eval(), info=info, codec=codec)


def evaluate(
    checkpoint: str | Path,
    *,
    episodes: int | None = None,
    nfe: Sequence[str] = ("1v/1a",),
    tasks: Sequence[str] | None = None,
    plain_euler: bool = False,
    closed_loop: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Measures a checkpoint; a setting that was measured before is read, not run again.

    Args:
        checkpoint: A teacher's or student's folder, or a run folder.
        episodes: Per task; the recipe's if None.
        nfe: Steps per stream and chunk, such as "1v/2a"; "full" for the teacher's own.
        tasks: The recipe's if None.
        plain_euler: Ignore the student's consistency functions, to measure what that mismatch costs.
        closed_loop: Drive the tasks; False measures the open loop alone.
        seed: Of episodes and noise.
        out: Folder for the results; `<run>/evaluations` if None.
        trust: Import the classes that its files, and those of the teacher they name, name beside ours, and run their
            code.

    Returns:
        One result per entry of `nfe`, as written.
    """
    policy = load_policy(checkpoint, trust=trust)
    tasks = tuple(tasks or policy.info.tasks)
    episodes = episodes or policy.info.episodes or 50
    folder = user_path(out) if out is not None else policy.run / "evaluations"
    if not tasks:
        raise InputError(f"{checkpoint} names no tasks; give --tasks, such as reach-wall")
    results = []
    for steps in nfe:
        sampler = "euler" if plain_euler else "own"
        stem = f"step{policy.info.steps}_{steps.replace('/', '-')}_{sampler}_seed{seed}"
        asked = {"tasks": list(tasks), "episodes": episodes, "closed_loop": closed_loop}
        measure = partial(_measure, policy, steps, asked, seed=seed, plain_euler=plain_euler, picture=folder / stem)
        with trusting(trust):
            results.append(measure_once(folder / f"{stem}.json", asked, measure))
    return results


def _measure(
    policy: Policy, nfe: str, asked: Mapping[str, Any], *, seed: int, plain_euler: bool, picture: Path
) -> dict[str, Any]:
    samplers = policy.samplers(nfe, plain_euler=plain_euler)
    tasks = asked["tasks"] if asked["closed_loop"] else []
    drive_one = partial(run_task, policy.wam, samplers, policy.codec, episodes=asked["episodes"], seed=seed)
    driven = drive_tasks(drive_one, tasks, f"{policy.name} {nfe}")
    open_loop, strip = _open_loop(policy, samplers, picture.with_name(f"{picture.name}.png"))
    films = [result.film for result in driven if result.film is not None]
    film = _save_film(films, picture.with_name(f"{picture.name}_film.png")) if films else None
    # The teacher's own steps are what others are compared with; every other setting carries its steps in its label.
    suffix = " euler" if plain_euler else ""
    return measurement(
        policy.name,
        nfe,
        driven,
        label=f"{policy.name} {nfe}{suffix}",
        **described(policy, samplers),
        sampler="euler" if plain_euler else "own",
        asked=asked,
        open_loop=open_loop,
        latency=chunk_latency(policy, samplers),
        parameters=policy.wam.deployed_parameters(),
        strip=strip,
        film=film,
        seed=seed,
    )


def described(policy: Policy, samplers: Mapping[str, StreamSampler]) -> dict[str, Any]:
    """What an evaluation says of its model."""
    return {
        "kind": policy.info.role,
        "step": policy.info.steps,
        "nfe": {name: sampler.steps for name, sampler in samplers.items()},
        "stages": [list(stage) for stage in policy.wam.stages],
    }


def _held_out(policy: Policy) -> Batch | None:
    """Held-out windows of the run's own data, or None where they are not here."""
    data = policy.info.section("data")
    count = policy.info.section("evaluate").get("open_loop_samples", 96)
    if data.get("source") == "lerobot":
        logger.warning("no open-loop measures: none of the data of %s is held out", policy.name)
        return None
    try:
        windows = EpisodeDataset(
            data["root"],
            window_frames=data["window_frames"],
            tasks=data["tasks"],
            split="val",
            norm=policy.codec.actions,
            balance=True,
            seed=1,
            senses=tuple(policy.wam.senses),
        )
    except (FileNotFoundError, KeyError) as error:
        logger.warning("no open-loop measures: the data of %s are not here (%s)", policy.name, error)
        return None
    return windows.batch(range(count // DRAWS))


def _open_loop(
    policy: Policy, samplers: Mapping[str, StreamSampler], picture: Path
) -> tuple[dict[str, float] | None, str | None]:
    """Measures and picture against the draws, from the same noise, of the model that it was distilled from, or of
    itself; None where that or the data are missing."""
    batch = _held_out(policy)
    if batch is None:
        return None, None
    teacher = policy
    if policy.info.role == "student":
        source = Path(str(policy.info.extra.get("teacher")))
        if not source.is_dir():
            logger.warning("no open-loop measures: the teacher of %s is not at %s", policy.name, source)
            return None, None
        teacher = load_policy(source)
    reference = chunk_draws(teacher.wam, teacher.samplers("full"), batch, draws=DRAWS)
    drawn = chunk_draws(policy.wam, samplers, batch, draws=DRAWS)
    decode = {"video": lambda z: torch.from_numpy(policy.codec.pictures(z)).float().movedim(-1, -3) / 255}
    measures = open_loop_measures(drawn, reference, batch, draws=DRAWS, decoders=decode)
    return measures, _strip(policy.codec, batch, (reference, drawn), picture)


def _strip(codec: Codec, batch: Batch, models: Sequence[list[dict[str, Tensor]]], path: Path) -> str | None:
    """Rows of pictures for three windows: what happened, what the teacher drew, what this model drew; None where
    nobody drew a picture."""
    models = [drawn for drawn in models if "video" in drawn[0]]
    if not models:
        return None
    rows = []
    for window in range(3):
        sources = [
            batch.clean["video"][window : window + 1],
            *(torch.cat([c["video"][window * DRAWS : window * DRAWS + 1] for c in drawn], 2) for drawn in models),
        ]
        rows.extend(codec.pictures(source)[0] for source in sources)
    return _save_rows(rows, 3, path)


def _save_film(films: Sequence[np.ndarray], path: Path) -> str:
    """Writes films [2, K, H, W, 3] below each other, pictures of one size however short they are."""
    return _save_rows([row for film in films for row in film], 2, path, columns=_FILM_COLUMNS)


def _save_rows(rows: Sequence[np.ndarray], together: int, path: Path, *, columns: int = 0) -> str:
    """Writes rows of pictures, each [K, H, W, 3] of any K, with a gap after every `together`; returns the name."""
    import matplotlib.image

    longest = max(columns, *(len(row) for row in rows))
    lines = []
    for i, row in enumerate(rows):
        line = np.concatenate(row, 1)
        lines.append(np.pad(line, ((0, 0), (0, (longest - len(row)) * row.shape[2]), (0, 0)), constant_values=255))
        if (i + 1) % together == 0 and i + 1 < len(rows):
            lines.append(np.full((4, lines[-1].shape[1], 3), 255, np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.image.imsave(path, np.repeat(np.repeat(np.concatenate(lines), 2, 0), 2, 1))
    return path.name


def chunk_latency(
    policy: Policy, samplers: Mapping[str, StreamSampler], *, chunks: int = LATENCY_CHUNKS
) -> dict[str, float]:
    """Milliseconds per stage and chunk at batch 1: medians, the first chunk left out as warm-up; beside them, as
    "part/<name>_ms", those of the parts that a model tells apart.

    Args:
        policy: What is timed.
        samplers: How its streams are drawn.
        chunks: Chunks in a row, at least 2.
    """
    shapes = policy.wam.layout.observed_shapes
    first = {n: torch.zeros(1, c, 1, h, w) for n, (c, h, w) in shapes.items()}
    unseen = {name: x.expand(-1, -1, policy.wam.chunk_frames, -1, -1) for name, x in first.items()}
    text = policy.codec.text("")
    rollout = Rollout(policy.wam, samplers, text=text[None], null_text=text, first=first)
    clocks: list[Callable[[], Mapping[str, float]]] = [lambda: rollout.seconds, lambda: rollout.session.part_seconds]
    spent: list[dict[str, list[float]]] = [{}, {}]
    for _ in range(chunks):
        before = [dict(clock()) for clock in clocks]
        drawn = rollout.predict()
        for clock, earlier, values in zip(clocks, before, spent, strict=True):
            for name, seconds in clock().items():
                values.setdefault(name, []).append(1000 * (seconds - earlier.get(name, 0.0)))
        rollout.observe(unseen | drawn)
    stages, parts = ({name: statistics.median(values[1:]) for name, values in group.items()} for group in spent)
    latency = {f"{name}_ms": value for name, value in stages.items()}
    split = {f"part/{name}_ms": value for name, value in parts.items()}
    return {**latency, "chunk_ms": sum(latency.values()), **split}


def latency_table(sources: Sequence[tuple[Policy, str]], *, out: str | Path, rounds: int = 9) -> dict[str, Any]:
    """Times models side by side, in turns, so that a busy moment of the machine falls on all of them.

    Args:
        sources: (policy, steps such as "1v/1a").
        out: Folder that gets `latency.json`, which `compare` prefers to what each evaluation measured for itself.
        rounds: Turns; the medians are written.

    Returns:
        Label such as "flash_wam 1v/1a" -> milliseconds per stream and chunk at batch 1.
    """
    table = time_in_turns(latency_timers(sources), rounds=rounds)
    write_whole(user_path(out) / "latency.json", (json.dumps(table, indent=1) + "\n").encode())
    return table


def latency_timers(sources: Sequence[tuple[Policy, str]]) -> dict[str, Callable[[], dict[str, float]]]:
    """What `time_in_turns` asks of each (policy, steps such as "1v/1a"), by the label of its line."""
    drawn = [(policy, policy.samplers(nfe)) for policy, nfe in sources]
    return {
        latency_label(policy, samplers): partial(chunk_latency, policy, samplers, chunks=3)
        for policy, samplers in drawn
    }


def latency_label(policy: Policy, samplers: Mapping[str, StreamSampler]) -> str:
    """What a model's line of `latency.json` is called, such as "flash_wam 1v/1a"."""
    return f"{policy.name} {nfe_text({name: sampler.steps for name, sampler in samplers.items()})}"


def time_in_turns(timers: Mapping[str, Callable[[], dict[str, float]]], *, rounds: int = 9) -> dict[str, Any]:
    """Medians of what each timer measures, label -> name -> value; every round asks all of them, one after another."""
    timed = [{label: measure() for label, measure in timers.items()} for _ in range(rounds)]
    return {
        label: {name: statistics.median(turn[label][name] for turn in timed) for name in timed[0][label]}
        for label in timers
    }


def cross_table(
    sources: Mapping[str, tuple[Policy, str]], *, out: str | Path, draws: int = 2, episodes: int = 96
) -> dict[str, Any]:
    """Crosses the video of every model with the actions of every model on the multi-modal tasks' first chunk.

    Args:
        sources: Label -> (policy, steps such as "1v/1a").
        out: Folder that gets `cross.json`.
        draws: Draws per episode.
        episodes: First observations, from held-out and training episodes of the multi-modal tasks.

    Returns:
        What is written: commitment and action error (against the last source's own draw) by row (earlier streams)
        and column (last stream).
    """
    policies = [policy for policy, _ in sources.values()]
    if any(len(stage) > 1 for policy in policies for stage in policy.wam.stages):
        raise InputError("streams that are drawn together cannot be crossed: one model's video has its own actions")
    if any(policy.wam.probes for policy in policies):
        raise InputError("a model that looks at its video and never draws it cannot be crossed")
    recipe = policies[0].info.extra["recipe"]["data"]
    several = [task for task in recipe["tasks"] if get_task(task).multimodal]
    if not several:
        raise InputError(f"a cross table needs a task with several ways; got {recipe['tasks']}")
    windows = EpisodeDataset(
        recipe["root"],
        window_frames=recipe["window_frames"],
        tasks=several,
        split="all",
        norm=policies[0].codec.actions,
    )
    chosen = np.linspace(0, len(windows.episodes) - 1, min(episodes, len(windows.episodes))).astype(int)
    batch = to_batch(windows.first_windows(chosen.tolist()), windows.null_text)
    *earlier, last = policies[0].wam.streams
    own = {
        label: chunk_draws(policy.wam, policy.samplers(nfe), batch, draws=draws, chunks=1)[0]
        for label, (policy, nfe) in sources.items()
    }
    reference = own[list(sources)[-1]][last]
    labels = list(sources)
    table: dict[str, list[list[float]]] = {"commitment": [], "action_error": []}
    for row in labels:
        given = [{name: own[row][name] for name in earlier}]
        committed, errors = [], []
        for column in labels:
            policy, nfe = sources[column]
            drawn = chunk_draws(policy.wam, policy.samplers(nfe), batch, draws=draws, chunks=1, replace=given)[0][last]
            controls = policy.codec.controls(drawn[:, :, 1:])
            committed.append(commitment(controls[:, :, 0])[0])
            errors.append(float(((drawn - reference)[:, :, 1:] ** 2).mean()))
        table["commitment"].append(committed)
        table["action_error"].append(errors)
    result = {"rows": labels, "columns": labels, **table, "draws": len(chosen) * draws, "tasks": several}
    write_whole(user_path(out) / "cross.json", (json.dumps(result, indent=1) + "\n").encode())
    return result
