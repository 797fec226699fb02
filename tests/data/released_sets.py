# SPDX-License-Identifier: Apache-2.0
"""Small data sets in the released layouts of RoboTwin and LIBERO, and a reader of each."""

from lerobot_sets import LIBERO, ROBOTWIN

from flashwam.data.actions import ActionNorm
from flashwam.data.controls import ControlSpace
from flashwam.data.lerobot import SegmentDataset

USED = {"robotwin": (*range(7), 28, *range(7, 14), 29), "libero": tuple(range(7))}
PLAN = {
    # Rows, then (start, end, row of the first picture, latent frames): 16 actions a frame.
    "robotwin": {
        "clean_50/adjust_bottle": [(130, [(0, 130, 0, 9)]), (90, [(0, 50, 0, 3), (50, 90, 53, 3)])],
        "aug_500/click_bell": [(70, [(3, 70, 5, 5)])],
    },
    # Four actions a frame.
    "libero": {"long": [(60, [(0, 60, 0, 15)]), (30, [(2, 30, 3, 6)])]},
}
QUANTILES = {
    "robotwin": (
        [-0.6, -0.5, -0.9, -1, -1, -1, -1, -0.3, -0.2, -0.4, -1, -1, -1, -1] + [0] * 16,
        [0.6, 0.5, 0.9, 1, 1, 1, 1, 0.3, 0.2, 0.4, 1, 1, 1, 1] + [0] * 14 + [1, 1],
    ),
    "libero": ([-0.6, -0.8, -0.9, -0.1, -0.2, -0.3, -1] + [0] * 23, [0.9, 0.8, 0.9, 0.2, 0.2, 0.3, 1] + [0] * 23),
}
CAMERAS = {"robotwin": ROBOTWIN, "libero": LIBERO}


def norm(kind, clip=1.5):
    low, high = QUANTILES[kind]
    return ActionNorm(q01=tuple(map(float, low)), q99=tuple(map(float, high)), used=USED[kind], clip=clip)


def reader(root, kind, *, frames=4, clip=1.5, first="raw_zero", **keywords):
    space = ControlSpace(norm=norm(kind, clip), relative=kind == "robotwin", first=first)
    layout = "tshape" if kind == "robotwin" else "width"
    return SegmentDataset(root, cameras=CAMERAS[kind], layout=layout, space=space, window_frames=frames, **keywords)
