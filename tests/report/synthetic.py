# SPDX-License-Identifier: Apache-2.0
"""Made-up evaluations that exercise a comparison's layout; no model made these numbers."""

import json

import numpy as np

from flashwam.core.stats import wilson
from flashwam.report.figures import new_figure, save_figure

TASKS = {
    "drawer-open": False,
    "window-open": False,
    "button-press-topdown": False,
    "reach-wall": True,
    "two-ways": True,
}


def evaluation(run, *, nfe=(1, 1), rates=0.5, commitment=0.7, step=None, sampler="own", episodes=50, seed=0, **rest):
    """One result as `flashwam evaluate` writes it; `rates` is one number or one per task."""
    rates = dict.fromkeys(TASKS, rates) if isinstance(rates, float | int) else rates
    tasks = {}
    for name, several in TASKS.items():
        k = round(rates[name] * episodes)
        tasks[name] = {
            "episodes": episodes,
            "success": k,
            "wilson": list(wilson(k, episodes)),
            "commitment": commitment if several else None,
            "multimodal": several,
        }
    label = f"{run} {nfe[0]}v/{nfe[1]}a" + ("" if sampler == "own" else " euler") + ("" if step is None else f" {step}")
    return {
        "label": label,
        "run": run,
        "step": step,
        "nfe": {"video": nfe[0], "action": nfe[1]},
        "sampler": sampler,
        "tasks": tasks,
        "open_loop": {},
        "latency": {},
        "strip": None,
        "seed": seed,
        "provenance": {},
        **rest,
    }


def write(folder, *results, metrics=()):
    """A run folder that holds these results."""
    (folder / "evaluations").mkdir(parents=True, exist_ok=True)
    for i, result in enumerate(results):
        name = result["label"].replace("/", "-").replace(" ", "_")
        (folder / "evaluations" / f"{name}_{i}.json").write_text(json.dumps(result))
    if metrics:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return folder


def open_loop(error, variance=0.9, video=0.02, sharpness=0.95):
    return {
        "action_error_teacher": error,
        "action_error_expert": error + 0.01,
        "action_variance_ratio": variance,
        "video_error_teacher": video,
        "video_sharpness_ratio": sharpness,
    }


def latency(video_steps, action_steps):
    return {
        "video_ms": 5.5 * video_steps,
        "action_ms": 5.0 * action_steps,
        "chunk_ms": 5.5 * video_steps + 5.0 * action_steps + 5.5,
    }


def strip(path):
    """A small made-up picture."""
    with new_figure(5, 0.8) as figure:
        axes = figure.subplots()
        axes.imshow([[(i * j) % 7 for i in range(48)] for j in range(8)], aspect="auto")
        axes.set_axis_off()
        return save_figure(figure, path, dpi=60)


def curves(i):
    """The log of the i-th student."""
    return [
        {
            "step": s,
            "video/loss": (0.1 + i * 0.03) * 0.99**s,
            "action/loss": (0.2 + i * 0.02) * 0.985**s,
            "video/grad_norm": 0.3 + 0.05 * i + 0.1 * ((s * 7) % 23) / 23,
            "action/grad_norm": (0.5 + 0.1 * i) * 0.995**s,
        }
        for s in range(0, 251, 5)
    ]


def benchmark(root):
    """A teacher, its untrained controls and five students with budget curves, in the shape of the real benchmark."""
    runs = [
        write(
            root / "teacher",
            *(
                evaluation("teacher", nfe=n, rates=r, commitment=c, latency=latency(*n), open_loop=open_loop(e))
                for n, r, c, e in (((10, 20), 0.95, 0.97, 0.0), ((1, 2), 0.72, 0.77, 0.03), ((1, 1), 0.6, 0.61, 0.05))
            ),
        )
    ]
    settings = {
        "naive_lcm": (0.66, 0.62, 0.035),
        "flash_wam": (0.84, 0.73, 0.011),
        "linear_both": (0.86, 0.78, 0.009),
        "video_only_reg": (0.55, 0.6, 0.06),
        "on_policy": (0.93, 0.91, 0.007),
    }
    for i, (run, (rate, commitment, error)) in enumerate(settings.items()):
        results = []
        for nfe, gain in (((1, 1), 0.0), ((1, 2), 0.04)):
            for step in (0, 50, 100, 250):
                share = step / 250
                rates = (
                    0.1 + (rate + gain - 0.1) * share**0.5 if run == "naive_lcm" else rate + gain - 0.2 * (1 - share)
                )
                e = error * (1 + 8 * (1 - share))
                results.append(
                    evaluation(
                        run,
                        nfe=nfe,
                        rates=rates,
                        commitment=commitment + gain,
                        step=step,
                        latency=latency(*nfe),
                        open_loop=open_loop(e, 0.4 if run == "naive_lcm" else 0.9),
                    )
                )
        results[3]["strip"] = "strip.png"
        if run in ("naive_lcm", "flash_wam"):
            results.append(
                evaluation(
                    run,
                    rates=0.2,
                    commitment=0.5,
                    step=250,
                    sampler="euler",
                    latency=latency(1, 1),
                    open_loop=open_loop(0.4),
                )
            )
        runs.append(write(root / run, *results, metrics=curves(i)))
        strip(root / run / "strip.png")
    return runs


CROSS = {
    "rows": ["on_policy 1v", "linear_both 1v", "teacher 1v", "teacher 10v"],
    "columns": ["on_policy 1a", "linear_both 1a", "teacher 1a", "teacher 20a"],
    "commitment": [[0.87, 0.79, 0.8, 0.93], [0.86, 0.78, 0.81, 0.93], [0.7, 0.62, 0.51, 0.85], [0.9, 0.85, 0.88, 0.95]],
    "action_error": [
        [0.01, 0.012, 0.03, 0.004],
        [0.011, 0.011, 0.03, 0.004],
        [0.02, 0.03, 0.05, 0.01],
        [0.008, 0.01, 0.02, 0.0],
    ],
    "draws": 192,
}


def luminance(colour):
    """Relative luminance, WCAG 2.2."""
    value = np.asarray(colour)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)


def contrast(one, other):
    """Of two colours, each (red, green, blue) from 0 to 1, WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
