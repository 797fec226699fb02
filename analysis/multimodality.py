# SPDX-License-Identifier: Apache-2.0
"""Shows that the two-way tasks have two modes, and that the average of the modes fails.

    python analysis/multimodality.py --root runs/full/data --out analysis/results

Left: the hand's paths in demonstrations, from above, by the way they took. Right: the lateral action of the first
chunk, where a policy has to choose. The JSON file holds the numbers, with the success of each way's expert and of a
controller that executes the mean of the experts' actions, replanned every chunk.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.core.scenes import EVAL_SEED_BASE
from flashwam.data.episodes import episode_path, read_episode_list, read_table
from flashwam.report.figures import save_figure
from flashwam.sim.experts import make_expert
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.tasks import TASKS, WALL_HALF_WIDTH, WALL_Y, TaskSpec
from flashwam.sim.ways import commitment
from flashwam.system.files import write_whole

CHUNK = 8
COLOURS = {0: "#0072B2", 1: "#D55E00", -1: "#999999"}


def load(repo: Path) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Hand paths [T, 3], first chunks of lateral labels [E, CHUNK], and ways [E]."""
    paths, chunks, ways = [], [], []
    for episode in read_episode_list(repo):
        table = read_table(episode_path(repo, episode["episode_index"]), ["action", "observation.state"])
        paths.append(table["observation.state"][:, :3])
        chunks.append(table["action"][:CHUNK, 0])
        ways.append(episode["way"])
    return paths, np.stack(chunks), np.array(ways)


def separation(values: np.ndarray, ways: np.ndarray) -> float:
    """Ashman's D of the two ways: distance of the means over their common spread; above 2 means two clear modes."""
    a, b = values[ways == 0], values[ways == 1]
    return float(np.sqrt(2) * abs(a.mean() - b.mean()) / np.sqrt(a.var() + b.var()))


def simulate(task: TaskSpec, resets: int) -> dict[str, Any]:
    """Success of each way's expert and of their average, replanned every chunk, over evaluation seeds."""
    env = MetaWorldEnv(task)
    experts = [make_expert(task, env.env, way) for way in range(len(task.ways))]

    def success(pair: list, replan_every: int) -> float:
        wins = 0
        for seed in range(EVAL_SEED_BASE, EVAL_SEED_BASE + resets):
            env.reset(seed, render=False)
            done = False
            while not done:
                if env.steps % replan_every == 0:
                    action = np.mean([expert(env.state) for expert in pair], axis=0)
                done, _, _ = env.step(action)
            wins += env.success
        return wins / resets

    return {
        "resets": resets,
        "success": {name: success([expert], 1) for name, expert in zip(task.ways, experts, strict=True)},
        "success_average": success(experts, 1),
        "success_average_held_8_steps": success(experts, CHUNK),
    }


def measure(task: TaskSpec, repo: Path, resets: int) -> dict[str, Any]:
    """All numbers of one task."""
    paths, chunks, ways = load(repo)
    share, chosen = commitment(chunks, threshold=task.commit_threshold)
    mean = chunks.mean(axis=1)
    return {
        "episodes": len(paths),
        "ways": {name: int((ways == way).sum()) for way, name in enumerate(task.ways)},
        "first_chunk": {
            "committed": share,
            "agrees_with_way": float((chosen == ways).mean()),
            "mean_by_way": {name: float(mean[ways == way].mean()) for way, name in enumerate(task.ways)},
            "mean_of_all": float(mean.mean()),
            "ashman_d": separation(mean, ways),
            "threshold": task.commit_threshold,
        },
        "simulated": simulate(task, resets),
    }


def draw(rows: list[tuple[TaskSpec, Path, dict[str, Any]]], path: Path) -> None:
    """One row per task: paths from above, and the histogram of the first chunk."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install 'flashwam[report]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(rows), 2, figsize=(9, 3.6 * len(rows)), squeeze=False, layout="constrained")
    for (task, repo, numbers), (left, right) in zip(rows, axes, strict=True):
        paths, chunks, ways = load(repo)
        for hand, way in list(zip(paths, ways, strict=True))[:120]:
            left.plot(hand[:, 0], hand[:, 1], color=COLOURS[int(way)], alpha=0.25, linewidth=0.8)
        if task.forbidden == "wall":
            corner = (-WALL_HALF_WIDTH, WALL_Y[task.name] - 0.01)
            left.add_patch(plt.Rectangle(corner, 2 * WALL_HALF_WIDTH, 0.02, color="black"))
            left.annotate("wall", (0, WALL_Y[task.name] + 0.02), ha="center", fontsize=9)
        left.plot(*task.hand[:2], "k^", markersize=6)
        left.annotate("start", task.hand[:2], textcoords="offset points", xytext=(8, -4), fontsize=9)
        left.set(title=f"{task.name}: hand paths from above", xlabel="x (m)", ylabel="y (m)", aspect="equal")
        bins = np.linspace(-1.05, 1.05, 43)
        for way, name in enumerate(task.ways):
            values = chunks[ways == way].mean(axis=1)
            right.hist(values, bins, color=COLOURS[way], alpha=0.8, label=f"{name} ({len(values)})")
        mean = numbers["first_chunk"]["mean_of_all"]
        right.axvline(mean, color="black", linestyle="--", label="mean of all")
        simulated = numbers["simulated"]
        ways_text = ", ".join(f"{name} {value:.0%}" for name, value in simulated["success"].items())
        right.set(
            title=f"success: {ways_text}; their average {simulated['success_average']:.0%}",
            xlabel=f"lateral action, mean of the first {CHUNK} steps",
            ylabel="demonstrations",
        )
        right.title.set_fontsize(10)
        right.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.72, 1.0))
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Writes `multimodality.json` and `multimodality.png`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("runs/full/data"), help="folder of the collected repos")
    parser.add_argument("--out", type=Path, default=Path("analysis/results"), help="where the results go")
    parser.add_argument("--resets", type=int, default=24, help="episodes per controller")
    args = parser.parse_args()
    rows = []
    for task in TASKS.values():
        repo = args.root / task.name
        if task.multimodal and (repo / "meta" / "episodes.jsonl").is_file():
            rows.append((task, repo, measure(task, repo, args.resets)))
    if not rows:
        raise SystemExit(f"no two-way task below {args.root}; run `flashwam collect` first")
    args.out.mkdir(parents=True, exist_ok=True)
    numbers = {task.name: values for task, _, values in rows}
    write_whole(args.out / "multimodality.json", (json.dumps(numbers, indent=2) + "\n").encode())
    draw(rows, args.out / "multimodality.png")
    print(json.dumps(numbers, indent=2))
    print(args.out / "multimodality.png")


if __name__ == "__main__":
    main()
