# SPDX-License-Identifier: Apache-2.0
"""Redoes Flash-WAM's gradient-scale figure from the formulas, with both streams' noise densities under it.

    python analysis/gradient_scale.py
    python analysis/gradient_scale.py --action-shift 0.05 --out runs/gradient_scale_libero

Writes gradient_scale.png, gradient_moments.png and gradient_scale.json. No weights and no data are read.
"""

import argparse
import json
from pathlib import Path

from flashwam.core.streams import StreamSpec
from flashwam.report.schedule import schedule_analysis
from flashwam.report.schedule_figures import draw_gradient_scale, draw_moments
from flashwam.system.files import write_whole


def main() -> None:
    """Parses the shifts, analyses, draws, and prints the numbers the paper quotes."""
    parser = argparse.ArgumentParser(description="Gradient scale of lcm and linear under both streams' noise.")
    parser.add_argument("--video-shift", type=float, default=5.0, help="LingBot-VA: 5")
    parser.add_argument(
        "--action-shift", type=float, default=1.0, help="LingBot-VA: 1; its LIBERO configurations: 0.05"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gradient_scale"), help="folder to write into")
    arguments = parser.parse_args()
    streams = {
        "video": StreamSpec.from_config("video", {"shift": arguments.video_shift, "consistency": "lcm"}),
        "action": StreamSpec.from_config("action", {"shift": arguments.action_shift, "consistency": "linear"}),
    }
    analysis = schedule_analysis(streams)
    draw_gradient_scale(analysis, arguments.out / "gradient_scale.png")
    draw_moments(analysis, arguments.out / "gradient_moments.png")
    write_whole(arguments.out / "gradient_scale.json", json.dumps(analysis, indent=1, allow_nan=False) + "\n")
    for name, numbers in analysis["streams"].items():
        lcm, linear = numbers["functions"]["lcm"], numbers["functions"]["linear"]
        print(
            f"{name}: {numbers['label']}, median sigma {numbers['median']:.4f}, "
            f"{numbers['mass_below_low_noise']:.1%} of draws below 0.1; "
            f"E b^2 lcm {lcm['mean_squared_gradient_scale']:.4f}, linear {linear['mean_squared_gradient_scale']:.4f}; "
            f"|b_lcm(median)| / |b_lcm(0.1)| = {lcm['median_over_low_noise']:.2f}"
        )


if __name__ == "__main__":
    main()
