# SPDX-License-Identifier: Apache-2.0
"""Four sizes of a demo, each with how much of everything it does. The benchmark in the README is the preset "full"."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flashwam.run.real_time import RealTime, both_habits

__all__ = ["COOLER", "LATE_EPISODES", "LATE_TASKS", "PRESETS", "Preset"]

COOLER: Mapping[str, float] = {"action": 0.0}
"""Temperatures of streams at which success was higher than from unit noise, and ways as many, docs/results/noise.md."""

LATE_TASKS, LATE_EPISODES = ("button-press", "button-moving"), 20
"""A task that stands and the same one as it moves, for worlds that do not wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A size of a demo: how much of everything it does.

    Args:
        methods: Recipes of recipes/metaworld, in the order they are run.
        overrides: For every recipe.
        distill: Overrides of the distillation recipes alone.
        own: Method -> overrides of its recipe alone, after those.
        seeds: Of distillation and evaluation.
        nfe: Settings every student is driven at; those of the recipes (`evaluate.nfe`), and the teacher's own, where
            empty.
        euler: Methods also sampled with plain Euler, and with their own functions at unit amplitude.
        cooler: Methods also driven at the temperatures `COOLER`, at the first setting, and "teacher" at its own.
        curve: Distillation steps at which a copy is driven too, at the first setting and the first seed.
        rates: Learning rates tried for every method; its best by action error is used for every seed. Empty: the
            recipe's own.
        cross: Methods that are crossed with the teacher.
        longer: Methods that are also distilled for more steps, as "method@steps", at the first seed; driven at the
            first setting.
        latencies: Milliseconds at which the teacher and some students are driven in a world that does not wait, at the
            first seed; empty for none.
        late: Those students' methods.
        film: Tasks in which the teacher and the best student are filmed, one after the other; empty for no film.
    """

    methods: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    distill: tuple[str, ...] = ()
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    nfe: tuple[str, ...] = ("1v/1a",)
    euler: tuple[str, ...] = ()
    cooler: tuple[str, ...] = ()
    curve: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    cross: tuple[str, ...] = ()
    longer: tuple[str, ...] = ()
    latencies: tuple[float, ...] = ()
    late: tuple[str, ...] = ()
    film: tuple[str, ...] = ()

    @property
    def clocks(self) -> list[RealTime]:
        """Robots at every latency, as fast as LIBERO's; an episode may last four times its task's limit."""
        return both_habits(self.latencies, control_hz=20, patience=4)


# The comparisons that matter most first, so that an interrupted benchmark already shows them.
ALL_METHODS = ("naive_lcm", "flash_wam", "on_policy", "best", "video_only", "video_only_reg", "linear_both")

PRESETS = {
    "smoke": Preset(
        methods=("naive_lcm", "flash_wam"),
        overrides=(
            "data.tasks=[button-press,reach-wall]",
            "data.episodes=4",
            # One episode in 20 is kept for judging.
            "data.multimodal_episodes=20",
            "autoencoder.steps=30",
            "autoencoder.width=32",
            "autoencoder.batch_size=8",
            "train.steps=30",
            "train.batch_size=8",
            "evaluate.episodes=3",
            "evaluate.open_loop_samples=16",
        ),
        distill=(
            "distill.steps=10",
            "distill.batch_size=8",
            "distill.save_every=5",
            "distill.diagnose_every=5",
            "distill.log_every=5",
        ),
        cooler=("teacher", "flash_wam"),
        film=("reach-wall",),
    ),
    "quick": Preset(
        # The longest first, so that both cores are busy to the end.
        methods=("pairs_cooled_actions", "on_policy", "naive_lcm", "flash_wam"),
        overrides=(
            "data.tasks=[button-press,reach-wall,button-wall]",
            "data.episodes=60",
            "data.multimodal_episodes=150",
            "evaluate.episodes=24",
        ),
        distill=("distill.steps=200",),
        own={"pairs_cooled_actions": ("distill.steps=1200",)},
        cooler=("teacher", "on_policy", "naive_lcm", "flash_wam"),
        cross=("pairs_cooled_actions", "on_policy"),
        film=("reach-wall", "button-wall", "button-press"),
    ),
    "pilot": Preset(
        methods=ALL_METHODS,
        distill=("distill.steps=300", "distill.warmup_steps=25", "distill.lr=3e-4"),
        nfe=(),
        euler=("naive_lcm", "flash_wam"),
        curve=(0, 50, 150),
        cross=("flash_wam", "best", "on_policy"),
        latencies=(0.0, 100.0, 348.0, 1000.0, 8100.0),
        late=("flash_wam", "on_policy"),
        film=("reach-wall", "button-wall", "drawer-open"),
    ),
    "full": Preset(
        methods=ALL_METHODS,
        distill=("distill.steps=400", "distill.warmup_steps=25", "distill.lr_decay=cosine"),
        seeds=(0, 1, 2),
        nfe=(),
        euler=("naive_lcm", "flash_wam"),
        curve=(0, 50, 150),
        rates=(1e-4, 3e-4, 1e-3, 3e-3),
        cross=("flash_wam", "best", "on_policy"),
        longer=("on_policy@1500",),
    ),
}
