# SPDX-License-Identifier: Apache-2.0
"""What a run will cost, before it starts: parameters, memory, steps, time."""

import inspect
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from flashwam.config import run_folder
from flashwam.distillation.methods import find_method
from flashwam.recipe import LoopConfig, Recipe
from flashwam.wam import family, load
from flashwam.wam.base import WorldActionModel

__all__ = ["Plan", "check_names", "make_plan"]

GIB = 2**30
MEASURABLE = 50_000_000
"""Parameters up to which a plan times a few passes instead of looking a throughput up."""
PUBLISHED_SECONDS = 24 * 3600 / 2000
"""Flash-WAM's LIBERO distillation: 2,000 steps of 48 samples in about 24 h on 4 H100."""
PUBLISHED_SAMPLES = 48
EPISODES_PER_SECOND = 2.9
"""Demonstrations a second and process, measured on one core at 64 pixels."""
AUTOENCODER_SECONDS = 0.06
"""Seconds per step of 32 frames at width 64, measured on one core."""
TEXT_TOKENS = {"metaworld": 8, "lerobot": 512}
_WARM, _TIMED = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Rows of (what, how much), in the order they are shown."""

    command: str
    rows: tuple[tuple[str, str], ...]

    def lines(self) -> list[str]:
        """The plan as text."""
        width = max(len(what) for what, _ in self.rows)
        return [f"plan of `flashwam {self.command}`", *(f"  {what:<{width}}  {much}" for what, much in self.rows)]


def check_names(recipe: Recipe, command: str) -> None:
    """Refuses a family, method or keyword of theirs that does not exist, before any work starts.

    Raises:
        ValueError: The message names the nearest known name.
    """
    try:
        kind = family(recipe.wam.family)
    except ValueError as error:
        raise ValueError(f"wam.family: {error}") from error
    create = getattr(kind, "create", None)
    if create is not None:
        known = [*_keywords(create), *_network_keywords(create, kind)]
        _check_keywords("wam.config", recipe.wam.config, known)
        absent = [name for name in _keywords(create, required=True) if name not in recipe.wam.config]
        if absent and recipe.wam.pretrained is None:
            raise ValueError(f"wam.config: {', '.join(absent)} missing; {recipe.wam.family} needs them (see recipes/)")
    for section, loop in (("train", recipe.train), ("distill", recipe.distill)):
        if loop is not None and section == command:
            try:
                method = find_method(loop.method)
            except ValueError as error:
                raise ValueError(f"{section}.method: {error}") from error
            _check_keywords(f"{section}.options", loop.options, _keywords(method.__init__))


def make_plan(recipe: Recipe, command: str, *, run_dir: str | Path | None = None) -> Plan:
    """Plans `flashwam collect`, `train` or `distill`.

    Args:
        recipe: The recipe.
        command: Name of the command.
        run_dir: As given on the command line.
    """
    if command == "collect":
        return Plan(command=command, rows=tuple(_collection(recipe)))
    loop = recipe.train if command == "train" else recipe.distill
    check_names(recipe, command)
    if loop is None:
        raise ValueError(f"recipe {recipe.name!r} has no distill section; try `flashwam distill flash_wam --dry-run`")
    folder = run_folder(recipe, run_dir)
    model = _model(recipe)
    rows = [("run folder", f"{folder} ({'resumed if its recipe is the same' if folder.exists() else 'new'})")]
    if command == "distill":
        rows.append(("teacher", _folder(recipe.wam.pretrained, "missing: set wam.pretrained to a teacher's folder")))
        rows.append(("starts from", _folder(loop.init, "the teacher")))
    rows.append(("streams", "; ".join(_stream(spec) for spec in recipe.streams.values())))
    rows += [*_size(model, loop, command), *_budget(loop), ("time", _time(recipe, loop, model, command))]
    return Plan(command=command, rows=tuple(rows))


def _collection(recipe: Recipe) -> list[tuple[str, str]]:
    data = recipe.data
    if data.source != "metaworld":
        return [("episodes", f"none to collect: data.source is {data.source!r}, they lie below {data.root}")]
    from flashwam.sim.tasks import get_task

    counts = {n: data.multimodal_episodes if get_task(n).multimodal else data.episodes for n in data.tasks}
    total = sum(counts.values())
    seconds = total / (EPISODES_PER_SECOND * min(data.processes, os.cpu_count() or 1))
    encoder = recipe.autoencoder
    rows = [
        ("folder", data.root),
        ("episodes", f"{total}: {', '.join(f'{n} {count}' for n, count in counts.items())}"),
        ("processes", str(data.processes)),
        ("time", f"{_duration(seconds)} (stored throughput: {EPISODES_PER_SECOND} episodes a second and core)"),
    ]
    if encoder.pretrained is None:
        cost = encoder.steps * AUTOENCODER_SECONDS * encoder.batch_size / 32 * (encoder.width / 64) ** 2
        rows.append(("autoencoder", f"{encoder.steps} steps, {_duration(cost)} (stored throughput, one core)"))
    else:
        rows.append(("autoencoder", f"from {encoder.pretrained}"))
    return rows


def _model(recipe: Recipe) -> WorldActionModel:
    """The recipe's model without memory for its weights."""
    if recipe.wam.config:
        with torch.device("meta"):
            return family(recipe.wam.family).create(**recipe.wam.config)
    if recipe.wam.pretrained is None:
        raise ValueError("wam: needs `config` (the model's size) or `pretrained` (a folder)")
    return load(recipe.wam.pretrained)


def _size(model: WorldActionModel, loop: LoopConfig, command: str) -> list[tuple[str, str]]:
    total = sum(p.numel() for p in model.parameters())
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    zero = int(loop.strategy[-1]) if loop.strategy.startswith("zero") else 0
    half = zero > 0 and loop.precision == "bf16"
    shard = {"weights": zero >= 3, "gradients": zero >= 2, "optimiser": zero >= 1}
    bytes_each = {"weights": 2 if half else 4, "gradients": 2 if half else 4, "optimiser": 12 if half else 8}
    parts = {key: total * each / (processes if shard[key] else 1) for key, each in bytes_each.items()}
    method = find_method(loop.method)
    copies = {
        "target": method.needs_target or loop.save_weights == "target",
        "teacher": command == "distill",
        "reference": method.needs_reference,
    }
    parts |= {name: total * 4 for name, kept in copies.items() if kept}
    listed = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
    of = f" a process, {processes} of them ({loop.strategy})" if processes > 1 else f" on one process ({loop.strategy})"
    return [("parameters", f"{total:,}"), ("memory", f"{_gib(sum(parts.values()))}{of}, plus activations: {listed}")]


def _budget(loop: LoopConfig) -> list[tuple[str, str]]:
    samples = loop.batch_size * loop.accumulation
    return [
        ("steps", f"{loop.steps:,} of {samples} samples ({loop.batch_size} x {loop.accumulation})"),
        ("samples seen", f"{loop.steps * samples:,}"),
    ]


def _passes(recipe: Recipe, loop: LoopConfig) -> float | None:
    """Forward passes without gradient per batch, beside the student's own; None for a method not known here."""
    specs = recipe.streams.values()
    if loop.method == "flow_matching":
        return 0.0
    if loop.method == "consistency":
        guided = 2 if any(spec.guidance for spec in specs) else 1
        return 1.0 + guided * max(spec.teacher_substeps for spec in specs)
    if loop.method == "on_policy":
        # One stream's chunk at a time: about a quarter of a joint pass.
        guided = sum(2 if spec.guidance else 1 for spec in specs if spec.weight > 0)
        return 1.0 + 0.25 * (len(specs) + guided * loop.options.get("teacher_steps", 9))
    return None


def _time(recipe: Recipe, loop: LoopConfig, model: WorldActionModel, command: str) -> str:
    total = sum(p.numel() for p in model.parameters())
    passes = _passes(recipe, loop)
    if total > MEASURABLE:
        if command == "distill" and loop.method == "consistency":
            each = PUBLISHED_SECONDS * loop.batch_size * loop.accumulation / PUBLISHED_SAMPLES
            return (
                f"{_duration(each * loop.steps)} on 4 H100 (stored throughput: Flash-WAM reports about 24 h for "
                f"2,000 steps of {PUBLISHED_SAMPLES} samples)"
            )
        return "unknown: too large to time here, and no throughput is stored for it"
    width = recipe.wam.config.get("text_dim")
    if passes is None or width is None:
        return f"unknown: no cost is known for method {loop.method!r}" if passes is None else "unknown: no text_dim"
    forward, step = _measure(recipe, loop, int(width))
    seconds = loop.accumulation * (step + passes * forward)
    return (
        f"{_duration(seconds * loop.steps)} (measured here: {seconds * 1000:.0f} ms a step, of which the student's own "
        f"pass takes {step * 1000:.0f} ms; {torch.get_num_threads()} thread)"
    )


def _measure(recipe: Recipe, loop: LoopConfig, text_width: int) -> tuple[float, float]:
    """Seconds of a pass without and with gradient, on random weights and data of the run's shapes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = family(recipe.wam.family).create(**recipe.wam.config).to(device)
    rows, frames = loop.batch_size, recipe.data.window_frames
    clean = {
        name: torch.randn(rows, channels, frames, height, width, device=device)
        for name, (channels, height, width) in model.shapes.items()
    }
    sigma = {name: torch.full((rows, frames), 0.5, device=device) for name in clean}
    text = torch.randn(rows, TEXT_TOKENS[recipe.data.source], text_width, device=device)

    def forward() -> Mapping[str, torch.Tensor]:
        return model.velocity(clean, sigma, clean, {"text": text})

    def step() -> None:
        sum(v.square().mean() for v in forward().values()).backward()

    with torch.no_grad():
        without = _seconds(forward)
    return without, _seconds(step)


def _seconds(function: Callable[[], object]) -> float:
    for _ in range(_WARM):
        function()
    start = time.perf_counter()
    for _ in range(_TIMED):
        function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / _TIMED


def _folder(folder: str | None, otherwise: str) -> str:
    if folder is None:
        return otherwise
    return f"{folder} ({'found' if Path(folder).is_dir() else 'not there yet'})"


def _stream(spec: Any) -> str:
    return f"{spec.name}: {spec.consistency.name}, shift {spec.schedule.shift:g}, {spec.anchors} anchors"


def _keywords(function: Callable[..., Any], *, required: bool = False) -> list[str]:
    """A function's keyword-only parameters without those the pipeline fills in."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and (p.default is p.empty or not required)]
    return [name for name in names if name not in ("teacher", "keep_target")]


def _network_keywords(create: Callable[..., Any], kind: type) -> list[str]:
    """Keywords that `create` passes on to the network, which the class' own constructor names by its annotation."""
    takes_more = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(create).parameters.values())
    annotations = [p.annotation for p in inspect.signature(kind.__init__).parameters.values()]
    networks = [a for a in annotations if isinstance(a, type) and issubclass(a, torch.nn.Module)]
    if not takes_more or not networks:
        return []
    return [name for name in inspect.signature(networks[0].__init__).parameters if name != "self"]


def _check_keywords(at: str, given: Mapping[str, Any], known: list[str]) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{at}.{key}: unknown key{hint}; it takes {', '.join(known) or 'none'}")


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
