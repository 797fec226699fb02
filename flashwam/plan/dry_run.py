# SPDX-License-Identifier: Apache-2.0
"""The plan that `--dry-run` shows: of `flashwam collect`, `train` and `distill` as they would run now."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashwam.distillation.methods import Pairs, find_method
from flashwam.distillation.setup import Setup
from flashwam.distillation.strategies import check_strategy
from flashwam.distillation.trackers import check_trackers
from flashwam.plan.drawing import drawing
from flashwam.plan.memory import footprint, strategy_for
from flashwam.plan.names import check_names
from flashwam.plan.roles import adapter_count, roles_of, trained_of
from flashwam.plan.sizes import meta_model, model_size, text_shape
from flashwam.plan.time import run_time
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.run.folder import run_folder
from flashwam.sim.simulators import episode_counts
from flashwam.system.durations import duration_text
from flashwam.system.errors import InputError
from flashwam.system.hub import is_on_hub
from flashwam.wam.base import WorldActionModel

__all__ = ["Plan", "gib", "make_plan"]

GIB = 2**30
EPISODES_PER_SECOND = {"metaworld": 2.9, "libero": 0.2}
"""Simulator -> demonstrations a second and process, measured on one core at 64 pixels; LIBERO has two cameras."""
CAMERAS = {"metaworld": 1, "libero": 2}
"""Simulator -> pictures of a moment, which a frame of its autoencoder holds side by side."""
AUTOENCODER_SECONDS = 0.06
"""Seconds per step of 32 frames of one camera at width 64, measured on one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Rows of (what, how much), in the order they are shown."""

    command: str
    rows: tuple[tuple[str, str], ...]

    def lines(self) -> list[str]:
        """The plan as text."""
        width = max(len(what) for what, _ in self.rows)
        return [f"plan of `flashwam {self.command}`", *(f"  {what:<{width}}  {much}" for what, much in self.rows)]


def make_plan(recipe: Recipe, command: str, *, run_dir: str | Path | None = None, trust: bool = False) -> Plan:
    """Plans `flashwam collect`, `train` or `distill`.

    Args:
        recipe: The recipe.
        command: Name of the command.
        run_dir: As given on the command line.
        trust: See `load_wam`, of a model that only a folder describes.
    """
    if command == "collect":
        return Plan(command=command, rows=tuple(_collection(recipe)))
    loop = recipe.train if command == "train" else recipe.distill
    check_names(recipe, command)
    if loop is None:
        raise InputError(f"recipe {recipe.name!r} has no distill section; try `flashwam distill flash_wam --dry-run`")
    check_trackers(loop.trackers)
    folder = run_folder(recipe, run_dir)
    model = meta_model(recipe, trust=trust)
    rows = [("run folder", f"{folder} ({'resumed if its recipe is the same' if folder.exists() else 'new'})")]
    if command == "distill":
        rows.append(("teacher", _folder(recipe.wam.pretrained, "missing: set wam.pretrained to a teacher's folder")))
        rows.append(("starts from", _folder(loop.init, "the teacher")))
    elif (begins := loop.init or recipe.train_from) is not None:
        rows.append(("starts from", _folder(begins, "")))
    rows.append(("streams", "; ".join(_stream(spec) for spec in recipe.streams.values())))
    tokens = model.pass_tokens(recipe.data.window_frames)
    size, text = model_size(model), text_shape(recipe, model)
    time = run_time(recipe, loop, model, parameters=size.parameters, tokens=tokens, text=text, gpus=None)
    rows += _size(recipe, loop, model, command)
    made = drawing(recipe, loop, model, text=text)
    if made is not None:
        ahead = " (`flashwam pairs` makes them)" if issubclass(find_method(loop.method), Pairs) else ""
        rows += [*made.rows(), ("kept in", f"{Setup.of(recipe, loop).rollouts}{ahead}")]
    rows += [*_budget(loop), ("time", str(time))]
    return Plan(command=command, rows=tuple(rows))


def _collection(recipe: Recipe) -> list[tuple[str, str]]:
    data = recipe.data
    if not data.simulated:
        return [("episodes", f"none to collect: data.source is {data.source!r}, they lie below {data.root}")]
    counts = episode_counts(data.tasks, one_way=data.episodes, several_ways=data.multimodal_episodes)
    total = sum(counts.values())
    rate = EPISODES_PER_SECOND[data.source]
    seconds = total / (rate * min(data.processes, os.cpu_count() or 1))
    encoder = recipe.autoencoder
    if encoder.pretrained is None:
        cost = encoder.steps * AUTOENCODER_SECONDS * encoder.batch_size / 32 * (encoder.width / 64) ** 2
        cost *= CAMERAS[data.source]
        later = f"an autoencoder, {encoder.steps} steps, {duration_text(cost)} (stored throughput, one core); latents"
    else:
        later = f"latents by {encoder.pretrained}"
    return [
        ("folder", data.root),
        ("episodes", f"{total}: {', '.join(f'{n} {count}' for n, count in counts.items())}"),
        ("processes", str(data.processes)),
        ("time", f"{duration_text(seconds)} (stored throughput: {rate} episodes a second and core)"),
        ("later", f"a training makes {later}"),
    ]


def _size(recipe: Recipe, loop: LoopConfig, model: WorldActionModel, command: str) -> list[tuple[str, str]]:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    size = model_size(model)
    adapters = adapter_count(model, loop)
    roles = roles_of(recipe, loop, model, command)
    check_strategy(loop, trained_of(roles))
    needed = footprint(
        strategy_for(loop.strategy, lora=adapters is not None, shard_teacher=loop.shard_teacher),
        parameters=size.parameters,
        adapters=adapters or 0,
        unit=size.unit,
        roles=roles,
        half=loop.precision == "bf16",
        gpus=processes,
    )
    parts = dict(needed.resident) | ({"buffers": needed.buffers} if needed.buffers else {})
    listed = ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
    of = f" a process, {processes} of them ({loop.strategy})" if processes > 1 else f" on one process ({loop.strategy})"
    return [
        ("parameters", f"{size.parameters:,}"),
        ("memory", f"{gib(needed.peak)}{of}, plus activations (`flashwam plan` estimates them): {listed}"),
    ]


def _budget(loop: LoopConfig) -> list[tuple[str, str]]:
    samples = loop.batch_size * loop.accumulation
    return [
        ("steps", f"{loop.steps:,} of {samples} samples ({loop.batch_size} x {loop.accumulation})"),
        ("samples seen", f"{loop.steps * samples:,}"),
    ]


def _folder(folder: str | None, otherwise: str) -> str:
    if folder is None:
        return otherwise
    if is_on_hub(folder):
        return f"{folder} (fetched when it begins, where it is not here yet)"
    return f"{folder} ({'found' if Path(folder).is_dir() else 'not there yet'})"


def _stream(spec: Any) -> str:
    return f"{spec.name}: {spec.consistency.name}, {spec.schedule.label}, {spec.anchors} anchors"


def gib(size: float) -> str:
    """Bytes as GiB, or MiB below one."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
