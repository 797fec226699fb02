# SPDX-License-Identifier: Apache-2.0
"""The part of a first chunk's controls that follows from the video's noise, and the part that is the actions' own.

    python analysis/noise_roles.py runs/one_step/runs/teacher:full runs/one_step/runs/pairs_cooled:1v/1a

In scenes that no study drives, every model draws some videos, and for each of them some actions. How far the actions of
one video scatter, and how far their means differ from video to video, are the two parts of their variance (one-way
analysis of variance, nested, unbiased). On the tasks with two ways it also counts how often two draws that take a way
take the same one. Writes `noise_roles.md` beside the comparison of analysis/one_step.py.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from first_chunks import UNUSED, first_pictures
from tqdm import tqdm

from flashwam.core.scenes import evaluation_scene
from flashwam.evaluation.policy import Policy, load_policy
from flashwam.report.row import GROUPS
from flashwam.report.table import text_table
from flashwam.sampling import Rollout
from flashwam.sim.contract import Task
from flashwam.sim.gl import ensure_gl
from flashwam.sim.simulators import get_task
from flashwam.sim.ways import chosen_ways
from flashwam.system.files import write_whole

SCENES, VIDEOS, DRAWS = 12, 8, 8
RESULTS = Path(__file__).resolve().parent / "results" / "one_step" / "comparison" / "noise_roles.md"
HEAD = (
    "model",
    *(f"{group}, {part}" for group in GROUPS for part in ("one video", "videos", "by the video")),
    *("same way, one video", "same way, two videos"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Sums over scenes of one group of tasks.

    Args:
        own: Variance of controls among draws of one video, in units of half their range, squared.
        between: Variance of their means from video to video.
        same: Pairs of draws of one video that take the same way, and all of them that both take one.
        other: The same of draws of two videos.
        scenes: As many as were added up.
    """

    own: float = 0.0
    between: float = 0.0
    same: tuple[int, int] = (0, 0)
    other: tuple[int, int] = (0, 0)
    scenes: int = 0

    @classmethod
    def of(cls, controls: np.ndarray, task: Task) -> Self:
        """Of one scene, [videos, draws, N, U]."""
        videos, draws = controls.shape[:2]
        own = float(controls.var(1, ddof=1).mean())
        # The mean of a few draws scatters by itself.
        between = float(controls.mean(1).var(0, ddof=1).mean()) - own / draws
        if not task.multimodal:
            return cls(own=own, between=between, scenes=1)
        ways = chosen_ways(controls.reshape(-1, *controls.shape[2:]), task).reshape(videos, draws)
        taken = np.stack([(ways == way).sum(1) for way in (0, 1)])
        same = _pairs(taken).sum(), _pairs(taken.sum(0)).sum()
        every = _pairs(taken.sum(1)).sum(), _pairs(taken.sum())
        other = (int(every[0] - same[0]), int(every[1] - same[1]))
        return cls(own=own, between=between, same=(int(same[0]), int(same[1])), other=other, scenes=1)

    def __add__(self, more: Self) -> Self:
        return type(self)(
            own=self.own + more.own,
            between=self.between + more.between,
            same=(self.same[0] + more.same[0], self.same[1] + more.same[1]),
            other=(self.other[0] + more.other[0], self.other[1] + more.other[1]),
            scenes=self.scenes + more.scenes,
        )

    @property
    def scatter(self) -> list[str]:
        """Standard deviations of one video's controls and of the videos' means, and the share of the variance by the
        video; "-" each without a scene."""
        if not self.scenes:
            return ["-"] * 3
        own, between = self.own / self.scenes, max(self.between / self.scenes, 0.0)
        share = between / (own + between) if own + between else 0.0
        return [f"{own**0.5:.3f}", f"{between**0.5:.3f}", f"{share:.2f}"]

    @property
    def ways(self) -> list[str]:
        """Shares of pairs of draws that take the same way, of those that take one, of one video and of two."""
        return [f"{one[0] / one[1]:.2f}" if one[1] else "-" for one in (self.same, self.other)]


def _pairs(count: np.ndarray) -> np.ndarray:
    return count * (count - 1) // 2


def first_controls(policy: Policy, nfe: str, task: Task, picture: np.ndarray, seed: int) -> np.ndarray:
    """Controls of first chunks after a picture [H, W, 3]: some draws of each of some videos, [videos, draws, N, U]."""
    codec, count = policy.codec, VIDEOS * DRAWS
    first = {"video": codec.video(np.repeat(picture[None, None], count, 0))}
    channels, per_frame, width = policy.wam.shapes["action"]
    first["action"] = first["video"].new_zeros(count, channels, 1, per_frame, width)
    generator = torch.Generator().manual_seed(seed)
    text = codec.text(task.prompt).expand(count, -1, -1)
    null = codec.text("")
    rollout = Rollout(policy.wam, policy.samplers(nfe), text=text, first=first, null_text=null, generator=generator)
    noise = rollout.noise()
    noise["video"] = noise["video"][::DRAWS].repeat_interleave(DRAWS, 0)
    controls = codec.controls(rollout.predict(noise)["action"][:, :, rollout.executed])
    return controls.reshape(VIDEOS, DRAWS, *controls.shape[1:])


def roles(policy: Policy, nfe: str) -> Iterator[tuple[str, Parts]]:
    """Parts of every task, after its group."""
    for name in tqdm(policy.info.tasks, desc=f"{policy.name} {nfe}"):
        task = get_task(name)
        base = evaluation_scene(UNUSED, 0)
        pictures = first_pictures(task, range(base, base + SCENES), policy.wam.shapes["action"][1])
        parts = [Parts.of(first_controls(policy, nfe, task, one, k), task) for k, one in enumerate(pictures)]
        yield next(group for group, several in GROUPS.items() if several == task.multimodal), sum(parts, Parts())


def table(models: Sequence[tuple[str, str]]) -> str:
    """The table of models, each a run's folder and its steps, in Markdown."""
    body = []
    for folder, nfe in models:
        policy, groups = load_policy(folder), {group: Parts() for group in GROUPS}
        for group, parts in roles(policy, nfe):
            groups[group] += parts
        scatter = [cell for group in GROUPS for cell in groups[group].scatter]
        body.append([f"{policy.name} {nfe}", *scatter, *groups["two-way"].ways])
    return text_table(HEAD, body, markdown=True)


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="RUN:STEPS", help="a run's folder and its steps, such as 1v/1a")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the table")
    args = parser.parse_args()
    ensure_gl()
    told = table([(folder, nfe) for folder, _, nfe in (model.rpartition(":") for model in args.models)])
    write_whole(args.out, told + "\n")
    print(told)


if __name__ == "__main__":
    main()
