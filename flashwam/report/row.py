# SPDX-License-Identifier: Apache-2.0
"""A row of a comparison: one way of sampling one run's weights, over its trainings and scenes."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flashwam.core.pairing import Episode, Outcomes, Pairs, pair_outcomes
from flashwam.core.sampler_name import sampler_suffix
from flashwam.core.stats import wilson
from flashwam.core.steps import nfe_text
from flashwam.report.comparison import Comparison

__all__ = ["GROUPS", "Row", "Share", "milliseconds_text", "pooled_share", "row_label"]

GROUPS = {"two-way": True, "one-way": False}
"""Name of a group of tasks -> whether several ways lead to success in them. What helps the one often hurts the other,
so that it is lost in all tasks together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Successes of n episodes.

    Args:
        successes: How many.
        episodes: n.
        commitment: Share that clearly took one way; None where there is but one.
        multimodal: Whether several ways lead to success.
        ways: "-1" for none, "0" or "1" -> episodes whose hand took it; empty where there is but one.
    """

    successes: int
    episodes: int
    commitment: float | None = None
    multimodal: bool = False
    ways: Mapping[str, int] = field(default_factory=dict)

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
            "ways": dict(self.ways),
        }

    @property
    def ways_text(self) -> str:
        """ "174/121/5": left, right and none; "" where that is not told."""
        return "/".join(str(self.ways.get(way, 0)) for way in ("0", "1", "-1")) if self.ways else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of sampling one run's weights, pooled over its trainings and evaluation seeds.

    Args:
        run: Name of the run.
        kind: "teacher", "student" or "baseline".
        step: Training steps of the weights, where known.
        final: True for the run's last evaluated step.
        nfe: Stream name -> steps.
        sampler: See `flashwam.core.sampler_name`.
        seeds: Of each pooled evaluation, its seed and task -> share.
        open_loop: Measure -> mean over the pooled evaluations.
        latency: Measure -> mean in milliseconds.
        stages: Streams drawn together by one pass of the network; each by itself where it is not known.
        motion: Per episode that has one: task, similarity of imagined and real motion, success.
        first_motion: The same of an episode's first chunk.
        strips: PNGs of decoded video.
        films: PNGs of real pictures above imagined ones, in closed loop.
        task_films: Task -> PNG of what the cameras saw in its first episode, where a simulator's result names one.
        parameters: Part -> parameters that stay in the deployed model; empty where unknown.
        cost: Seconds that making it took: "training" its own, whatever came before by name; empty where unknown.
        folders: Of the runs that were measured.
        training_seeds: Of the trainings, where every evaluation tells its own; else none.
        outcomes: Training -> (task, number of the scene) -> success; empty where no evaluation tells it. Where scenes
            are a benchmark's initial states, ((task, seed of the evaluation), number of the state) -> success: other
            seeds begin in the same states.
        family: Of the model; empty where it is not told.
        taught_by: Names of the runs that its trainings' recipes take their teacher from, where they tell it.
        guided: Whether it is drawn with guidance, which costs passes of its own.
        precision: Of the rollout, see `flashwam.core.precision`.
        round_trip: Whether `latency` is of a served model, as its client waits, and not of the passes alone.
        convention: That its simulator was driven under, where compared rows were driven under several; else empty.
        kept: Group of tasks -> success over the teacher's; filled by `flashwam.report.against`.
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
    task_films: Mapping[str, Path] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    training_seeds: tuple[int, ...] = ()
    outcomes: Outcomes = field(default_factory=dict)
    family: str = ""
    taught_by: frozenset[str] = frozenset()
    guided: bool = False
    precision: str = "own"
    round_trip: bool = False
    convention: str = ""
    kept: Mapping[str, Comparison] = field(default_factory=dict)

    @property
    def trainings(self) -> int:
        """Trainings that it is over; where that is not told, its folders are taken for them."""
        return len(self.training_seeds) or max(len(self.folders), len(self.outcomes), 1)

    @property
    def network(self) -> tuple[Hashable, ...]:
        """Facts that tell one network from another; a fact that is not told is empty."""
        return (self.family, self.stages, tuple(sorted(self.parameters.items())))

    @property
    def tasks(self) -> dict[str, Share]:
        """Task -> share over all seeds."""
        names = dict.fromkeys(name for _, tasks in self.seeds for name in tasks)
        return {name: pooled_share([tasks[name] for _, tasks in self.seeds if name in tasks]) for name in names}

    def pairs(self, other: "Row", *, multimodal: bool | None = None) -> Pairs:
        """Episodes of this row and of another in the same scenes; a student's also of the same training.

        None where the two were driven under different conventions: a scene of one is not that of the other.

        Args:
            other: A student, or what is given to every training: a teacher, a baseline.
            multimodal: Of the tasks with several ways (True) or one (False) alone.
        """
        if not self.driven_like(other):
            return Pairs(trainings={})
        chosen = {name for name, task in self.tasks.items() if multimodal in (None, task.multimodal)}
        ours, theirs = (row._outcomes_in(chosen) for row in (self, other))
        return pair_outcomes(ours, theirs, fixed=other.kind != "student")

    def driven_like(self, other: "Row") -> bool:
        """Tells whether successes may be compared; a row that tells no convention may be of any."""
        return "" in (self.convention, other.convention) or self.convention == other.convention

    def _outcomes_in(self, tasks: Collection[str]) -> Outcomes:
        return {
            training: {episode: won for episode, won in episodes.items() if _task_of(episode) in tasks}
            for training, episodes in self.outcomes.items()
        }

    @property
    def repeats_states(self) -> bool:
        """Tells whether episodes of one training began in one initial state, as at several seeds of a benchmark's."""
        return any(
            len({(_task_of(episode), episode[1]) for episode in episodes}) < len(episodes)
            for episodes in self.outcomes.values()
        )

    def seed_rates(self, multimodal: bool | None = None) -> tuple[float, ...]:
        """Success of each pooled evaluation, over all tasks or over those with several ways (True) or one (False)."""
        shares = [
            pooled_share([task for task in tasks.values() if multimodal in (None, task.multimodal)])
            for _, tasks in self.seeds
        ]
        return tuple(share.rate for share in shares if share.episodes)

    def beside(self, other: "Row") -> "Row":
        """This row over the seeds that `other` has too, and of each over the tasks that both have, for a fair
        comparison; over all of its seeds where they share none."""
        theirs: dict[int | None, set[str]] = {}
        for seed, tasks in other.seeds:
            theirs.setdefault(seed, set()).update(tasks)
        if not any(seed in theirs for seed, _ in self.seeds):
            theirs = {seed: set(other.tasks) for seed, _ in self.seeds}
        common = (
            (seed, {name: task for name, task in tasks.items() if name in theirs.get(seed, ())})
            for seed, tasks in self.seeds
        )
        return replace(self, seeds=tuple((seed, tasks) for seed, tasks in common if tasks))

    @property
    def steps_text(self) -> str:
        """ "1v/2a"."""
        return nfe_text(self.nfe)

    @property
    def label(self) -> str:
        """Name in figures and tables."""
        name = f"{self.run} {self.steps_text}".rstrip()
        step = None if self.final else self.step
        label = row_label(name, self.kind, self.sampler, precision=self.precision, step=step)
        return f"{label} ({self.convention})" if self.convention else label

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
        return pooled_share([s for s in self.tasks.values() if multimodal is None or s.multimodal == multimodal])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        two_way, one_way = (self.share(multimodal=several) for several in GROUPS.values())
        return {
            "label": self.label,
            "run": self.run,
            "kind": self.kind,
            **({"convention": self.convention} if self.convention else {}),
            "step": self.step,
            "final": self.final,
            "nfe": dict(self.nfe),
            "sampler": self.sampler,
            "network_evaluations": self.total_nfe,
            "seed_rates": list(self.seed_rates()),
            "overall": self.share().to_json(),
            "several_ways": two_way.to_json() if two_way.episodes else None,
            "one_way": one_way.to_json() if one_way.episodes else None,
            "of_teacher": {name: kept.to_json() for name, kept in self.kept.items()},
            "trainings": self.trainings,
            "tasks": {name: share.to_json() for name, share in self.tasks.items()},
            "open_loop": dict(self.open_loop),
            "latency": dict(self.latency),
            "parameters": dict(self.parameters),
            "cost": dict(self.cost),
        }


def _task_of(episode: Episode) -> Hashable:
    told = episode[0]
    return told[0] if isinstance(told, tuple) else told


def row_label(name: str, kind: str, sampler: str, *, precision: str, step: int | None) -> str:
    """Name of some weights of a run as they are sampled: "naive_lcm 1v/1a Euler fp8 at 300".

    Args:
        name: Of run and NFE.
        kind: See `Row`; a teacher has no functions that plain Euler could ignore.
        sampler, precision: See `Row`.
        step: Of the weights; None for the run's last.
    """
    sampled = sampler_suffix(sampler, student=kind == "student")
    rounded = "" if precision == "own" else f" {precision}"
    return f"{name}{sampled}{rounded}" + ("" if step is None else f" at {step}")


def milliseconds_text(milliseconds: float) -> str:
    """ "12.3", "1,720"."""
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def pooled_share(shares: Sequence[Share]) -> Share:
    """Pools shares: all their episodes together; commitment and ways are those of the tasks that have several."""
    committed = [(s.commitment, s.episodes) for s in shares if s.commitment is not None and s.episodes]
    weight = sum(episodes for _, episodes in committed)
    return Share(
        successes=sum(s.successes for s in shares),
        episodes=sum(s.episodes for s in shares),
        commitment=sum(share * episodes for share, episodes in committed) / weight if weight else None,
        multimodal=any(s.multimodal for s in shares),
        ways={way: sum(s.ways[way] for s in shares if s.ways) for way in next((s.ways for s in shares if s.ways), {})},
    )
