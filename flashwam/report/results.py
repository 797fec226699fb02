# SPDX-License-Identifier: Apache-2.0
"""Evaluation results of runs, read and pooled into the rows of a comparison."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flashwam.core.stats import wilson
from flashwam.core.steps import nfe_text
from flashwam.report.study import find_study, study_evaluations
from flashwam.run.evaluation import Evaluation, TaskNumbers, read_run
from flashwam.run.folder import RunFolder
from flashwam.system.errors import MissingFileError
from flashwam.system.paths import user_path

__all__ = ["Row", "Share", "pool_evaluations", "read_evaluations"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Successes of n episodes; `commitment` is the share that clearly took one way, None where there is but one."""

    successes: int
    episodes: int
    commitment: float | None = None
    multimodal: bool = False

    @property
    def rate(self) -> float:
        """Share of successes, 0 where nothing was tried."""
        return self.successes / self.episodes if self.episodes else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.successes, self.episodes)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        low, high = self.interval
        return {
            "episodes": self.episodes,
            "success": self.successes,
            "rate": self.rate,
            "wilson": [low, high],
            "commitment": self.commitment,
            "multimodal": self.multimodal,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of sampling one run's weights, pooled over its evaluation seeds.

    Args:
        run: Name of the run.
        kind: "teacher" or "student".
        step: Training steps of the weights, where known.
        final: True for the run's last evaluated step.
        nfe: Stream name -> steps.
        sampler: "own" or "euler".
        seeds: Of each pooled evaluation, its seed and task -> share.
        open_loop: Measure -> mean over the pooled evaluations.
        latency: Measure -> mean in milliseconds.
        stages: Streams drawn together by one pass of the network; each by itself where it is not known.
        motion: Per episode that has one: task, similarity of imagined and real motion, success.
        first_motion: The same of an episode's first chunk.
        strips: PNGs of decoded video.
        films: PNGs of real pictures above imagined ones, in closed loop.
        parameters: Part -> parameters that stay in the deployed model; empty where unknown.
        cost: Seconds that making it took: "training" its own, whatever came before by name; empty where unknown.
        folders: Of the runs that were measured.
    """

    run: str
    kind: str
    step: int | None
    final: bool
    nfe: Mapping[str, int]
    sampler: str
    seeds: tuple[tuple[int | None, Mapping[str, Share]], ...]
    open_loop: Mapping[str, float]
    latency: Mapping[str, float]
    stages: tuple[tuple[str, ...], ...] = ()
    motion: tuple[tuple[str, float, bool], ...] = ()
    first_motion: tuple[tuple[str, float, bool], ...] = ()
    strips: tuple[Path, ...] = ()
    films: tuple[Path, ...] = ()
    parameters: Mapping[str, int] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()

    @property
    def tasks(self) -> dict[str, Share]:
        """Task -> share over all seeds."""
        names = dict.fromkeys(name for _, tasks in self.seeds for name in tasks)
        return {name: _pooled([tasks[name] for _, tasks in self.seeds if name in tasks]) for name in names}

    @property
    def seed_rates(self) -> tuple[float, ...]:
        """Success of each pooled evaluation; their spread shows what the pooled interval cannot."""
        return tuple(_pooled(list(tasks.values())).rate for _, tasks in self.seeds)

    def beside(self, other: "Row") -> "Row":
        """This row over the seeds that `other` has too, for a fair comparison; itself where they share none."""
        common = {seed for seed, _ in other.seeds}
        kept = tuple((seed, tasks) for seed, tasks in self.seeds if seed in common)
        return replace(self, seeds=kept) if kept else self

    @property
    def steps_text(self) -> str:
        """ "1v/2a"."""
        return nfe_text(self.nfe)

    @property
    def label(self) -> str:
        """Name in figures and tables."""
        text = f"{self.run} {self.steps_text}"
        if self.kind == "student" and self.sampler == "euler":
            text += " Euler"
        return text if self.final else f"{text} at {self.step}"

    @property
    def parameters_text(self) -> str:
        """ "1.23 M", all parts together; "" where unknown."""
        count = sum(self.parameters.values())
        unit, name = next(((u, n) for u, n in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if count >= u), (1, ""))
        return f"{count / unit:.3g} {name}".rstrip() if count else ""

    @property
    def cost_text(self) -> str:
        """ "3.1 + 22" minutes, its own and those before it; "" where unknown."""
        if not self.cost:
            return ""
        before = sum(seconds for name, seconds in self.cost.items() if name != "training")
        return f"{self.cost['training'] / 60:.1f}" + (f" + {before / 60:.0f}" if before else "")

    @property
    def driven(self) -> bool:
        """False for rows that were measured in the open loop alone."""
        return any(share.episodes for share in self.tasks.values())

    @property
    def total_nfe(self) -> int:
        """Network evaluations a chunk; streams of one stage share theirs."""
        together = self.stages or tuple((name,) for name in self.nfe)
        return sum(max(self.nfe[name] for name in stage) for stage in together)

    def share(self, *, multimodal: bool | None = None) -> Share:
        """Over all tasks, or over those with several ways (True) or one (False)."""
        return _pooled([s for s in self.tasks.values() if multimodal is None or s.multimodal == multimodal])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        several = self.share(multimodal=True)
        return {
            "label": self.label,
            "run": self.run,
            "kind": self.kind,
            "step": self.step,
            "final": self.final,
            "nfe": dict(self.nfe),
            "sampler": self.sampler,
            "network_evaluations": self.total_nfe,
            "seed_rates": list(self.seed_rates),
            "overall": self.share().to_json(),
            "several_ways": several.to_json() if several.episodes else None,
            "tasks": {name: share.to_json() for name, share in self.tasks.items()},
            "open_loop": dict(self.open_loop),
            "latency": dict(self.latency),
            "parameters": dict(self.parameters),
            "cost": dict(self.cost),
        }


def read_evaluations(run: Path | str) -> list[Evaluation]:
    """Reads a run's evaluations, or those of a study's runs.

    Args:
        run: A folder with `evaluations/*.json`, a study's folder, or that of a run in one (`flashwam.report.study`).

    Raises:
        FileNotFoundError: where the folder or its evaluations are missing.
        ValueError: for a file or a line that is not an evaluation.
    """
    folder = user_path(run)
    study = None if RunFolder(folder).evaluation_files else find_study(folder)
    if study is None:
        return read_run(folder)
    told = [Evaluation.from_json(content, file, file=file) for file, content in study_evaluations(study)]
    found = [result for result in told if folder in (study, result.folder)]
    if not found:
        raise MissingFileError(f"{study} has no evaluations of a run {folder.relative_to(study)}")
    return found


def _mean(dicts: Sequence[Mapping[str, float] | None]) -> dict[str, float]:
    collected: dict[str, list[float]] = {}
    for values in dicts:
        for key, value in (values or {}).items():
            collected.setdefault(key, []).append(float(value))
    return {key: sum(values) / len(values) for key, values in collected.items()}


def _tasks(result: Evaluation) -> dict[str, Share]:
    return {
        name: Share(
            successes=task.success,
            episodes=task.episodes,
            commitment=task.commitment,
            multimodal=task.multimodal,
        )
        for name, task in result.tasks.items()
    }


def _pooled(shares: Sequence[Share]) -> Share:
    """All their episodes together; commitment is that of those that have one."""
    committed = [(s.commitment, s.episodes) for s in shares if s.commitment is not None and s.episodes]
    weight = sum(episodes for _, episodes in committed)
    return Share(
        successes=sum(s.successes for s in shares),
        episodes=sum(s.episodes for s in shares),
        commitment=sum(share * episodes for share, episodes in committed) / weight if weight else None,
        multimodal=any(s.multimodal for s in shares),
    )


def pool_evaluations(results: Sequence[Evaluation]) -> list[Row]:
    """Pools evaluations of one run, step, NFE and sampler over seeds, in the order of their first appearance.

    Folders whose runs share a name and a seed are told apart by the nearest of the folders above them that differ.
    Pictures that are named but are not there any more are left out; a warning counts them, but for those of a study,
    which keeps few.
    """
    single = [result for result in results if result.file is not None and result.file.is_file()]
    gone = [one.file for one in single if any(name and _picture(one, name) is None for name in (one.strip, one.film))]
    if gone:
        logger.warning("%d evaluations name pictures that are not there, %s first", len(gone), gone[0])
    clashes: dict[tuple[Any, ...], set[Path]] = {}
    for result in results:
        clashes.setdefault((*_key(result, result.run), result.seed), set()).add(result.folder)
    above = _levels_apart(clashes)
    groups: dict[tuple[Any, ...], list[Evaluation]] = {}
    for result in results:
        run = result.run
        if run in above:
            run = f"{result.folder.resolve().parents[above[run]].name}/{run}"
        groups.setdefault(_key(result, run), []).append(result)
    last: dict[str, int] = {}
    for run, _, _, step in groups:
        last[run] = max(last.get(run, 0), step or 0)
    return [
        Row(
            run=run,
            kind=parts[0].kind,
            step=step,
            final=(step or 0) == last[run],
            nfe=dict(nfe),
            sampler=sampler,
            seeds=tuple((part.seed, _tasks(part)) for part in parts),
            open_loop=_mean([p.open_loop for p in parts]),
            latency=_mean([p.latency for p in parts]),
            stages=parts[0].stages,
            motion=tuple(one for p in parts for one in _motion(p, lambda numbers: numbers.motion)),
            first_motion=tuple(one for p in parts for one in _motion(p, lambda numbers: numbers.first_motion)),
            strips=tuple(path for p in parts if (path := _picture(p, p.strip)) is not None),
            films=tuple(path for p in parts if (path := _picture(p, p.film)) is not None),
            parameters=next((p.parameters for p in parts if p.parameters), {}),
            folders=tuple(dict.fromkeys(part.folder for part in parts)),
        )
        for (run, nfe, sampler, step), parts in groups.items()
    ]


def _levels_apart(clashes: Mapping[tuple[Any, ...], set[Path]]) -> dict[str, int]:
    """Names of runs that lie in several folders -> how many folders up these have names of their own."""
    apart: dict[str, int] = {}
    for (run, *_), folders in clashes.items():
        parents = [folder.resolve().parents for folder in folders]
        levels = range(min(map(len, parents)))
        if len(folders) > 1:
            first = next((k for k in levels if len({above[k].name for above in parents}) == len(parents)), 0)
            apart[run] = max(apart.get(run, 0), first)
    return apart


def _key(result: Evaluation, run: str) -> tuple[Any, ...]:
    return run, tuple(result.nfe.items()), result.sampler, result.step


def _motion(
    result: Evaluation, which: Callable[[TaskNumbers], Sequence[float | None] | None]
) -> list[tuple[str, float, bool]]:
    return [
        (name, float(alike), bool(success))
        for name, task in result.tasks.items()
        for alike, success in zip(which(task) or (), task.outcomes or (), strict=False)
        if alike is not None
    ]


def _picture(result: Evaluation, name: str | None) -> Path | None:
    if not name or result.file is None:
        return None
    places = (result.folder / name, result.file.parent / name)
    return next((path for path in places if path.is_file()), None)
