# SPDX-License-Identifier: Apache-2.0
"""The sections of a recipe: frozen and typed, with their ranges. `flashwam.recipe.load` reads YAML into these."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args

from flashwam.core.measures import check_measure
from flashwam.core.precision import Precision
from flashwam.core.steps import parse_nfe
from flashwam.core.streams import StreamSpec
from flashwam.recipe.checks import FieldError, check
from flashwam.system.errors import InputError
from flashwam.system.hints import field_types
from flashwam.system.paths import names_a_folder, user_path

__all__ = [
    "AutoencoderConfig",
    "DataConfig",
    "EvaluateConfig",
    "JudgeConfig",
    "LoopConfig",
    "LoraConfig",
    "PathText",
    "Recipe",
    "RolloutConfig",
    "Unlimited",
    "WamConfig",
]


PathText = Annotated[str, "path"]
"""A text that names a file or folder; a `Recipe` replaces a leading ~ by the home folder."""
Unlimited = Annotated[float, "unlimited"]
"""A number that may be infinite: no limit. All others are finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Demonstrations: what to collect, where they lie, what a training sample is."""

    source: Literal["metaworld", "libero", "lerobot"] = "metaworld"
    """"metaworld", "libero": `flashwam collect` makes them in that simulator; "lerobot": they lie below `root`."""
    root: PathText = "data/demo"
    """Folder with one LeRobot repository per task, at any depth."""
    tasks: tuple[str, ...] = ("button-press", "drawer-open", "reach-wall")
    """Task names of the simulator, see docs/simulators.md; for "lerobot", names of folders on the way to the
    repositories, `*` and `?` allowed."""
    episodes: int = 100
    """Demonstrations per ordinary task."""
    multimodal_episodes: int = 300
    """Demonstrations per task with several ways; enough that a teacher cannot memorise which way each took."""
    window_frames: int = 6
    """Latent frames per training sample; shorter segments are padded and masked."""
    image_size: int = 64
    """Side of the rendered frames in pixels."""
    lossless: bool = False
    """Collected pictures keep every pixel, as a policy sees them; false: as recordings of robots do, H.264 at 14."""
    first_share: float = 0.25
    """Share of samples that begin with their episode, where a task with several ways has its way chosen."""
    action_noise: float = 0.5
    """Standard deviation of the bursts of noise added to the executed action, in action units."""
    processes: int = 2
    """Collecting or converting processes."""
    seed: int = 0
    """Seed of resets, coins and noise."""
    cameras: tuple[str, ...] = ()
    """For "lerobot", like all below: camera keys, in the layout's order."""
    depth_as_grey: bool = False
    """Cameras may be depth maps, which a conversion takes as grey pictures; false refuses them."""
    action_key: str = "action"
    """Column of the actions in raw data; a conversion calls it `action`."""
    layout: Literal["width", "tshape"] = "width"
    """"width": cameras side by side; "tshape": head camera below two wrist cameras of half its size."""
    camera_size: tuple[int, int] = (256, 256)
    """Rows and columns in pixels at which the first camera is encoded."""
    resize: Literal["stretch", "cover"] = "stretch"
    """The way pictures become so large: "stretch" as LingBot-VA does, "cover" and the middle of it as VideoVLA does."""
    stride: int = 1
    """Control steps between encoded pictures; four pictures are a latent frame."""
    held_out_every: int | None = 20
    """No model is trained on one episode in so many of a data set, its last; students are judged by these. What is made
    of the data before (autoencoder, quantiles, statistics of tokens) is of all episodes. null: none, but of
    demonstrations that a simulator makes one in 20."""
    clip_hop: int | None = None
    """Control steps from one clip's beginning to the next one's, for an autoencoder that makes every sample a clip of
    its own; null: as many as a latent frame spans. Clips have `window_frames` latent frames."""
    relative_poses: bool = False
    """Actions are absolute poses [xyz, quaternion xyzw, gripper] per arm, given relative to the segment's first row."""
    action_channels: int = 30
    """Action channels of the model."""
    used_channels: tuple[int, ...] = ()
    """The model's channel of each control, in the data's order; empty: the first ones."""
    unscaled_controls: tuple[int, ...] = ()
    """Controls that a conversion leaves as they are, in the data's order, such as a gripper of 0 and 1."""
    q01: tuple[float, ...] | None = None
    """1 % quantile per model channel, 0 where unused; null: those in `action_norm.json` below `root`."""
    q99: tuple[float, ...] | None = None
    """99 % quantile per model channel, likewise."""
    norm: Literal["teacher", "data"] | None = None
    """Owner of the quantiles that normalise the actions: "teacher", the model it starts from, else `q01` and `q99`;
    "data", those that `flashwam convert` measured, whatever else is said. null: the teacher's where there are any, but
    `flashwam train` refuses such as do not fit the data."""
    action_clip: float | None = 1.5
    """Normalised actions are clipped to so much on either side; null leaves them."""
    first_actions: Literal["raw_zero", "zero"] = "raw_zero"
    """Actions of frame 0, which nobody executed: "raw_zero" as published (zeros before normalisation), "zero" as at
    rollout (zeros after it)."""
    text_dropout: float = 0.0
    """Probability that a sample's text is the empty prompt's; methods may drop more of their own."""
    skip_bad: bool = False
    """Skip, count and list files that cannot be read, instead of stopping."""

    def __post_init__(self) -> None:
        positive = ("episodes", "multimodal_episodes", "window_frames", "image_size", "processes", "stride")
        check(self, (*positive, "action_channels"), lambda value: value >= 1, "at least 1")
        check(self, ("action_noise", "seed"), lambda value: value >= 0, "at least 0")
        check(self, ("first_share", "text_dropout"), lambda value: 0 <= value <= 1, "in [0, 1]")
        check(self, "camera_size", lambda value: min(value) >= 1, "two positive numbers of pixels")
        check(self, "clip_hop", lambda value: value is None or value >= 1, "at least 1, or null")
        check(self, "held_out_every", lambda value: value is None or value >= 2, "at least 2, or null")
        check(self, "action_key", lambda value: value.strip() != "", "the name of a column")
        check(self, "action_clip", lambda value: value is None or value > 0, "positive or null")
        self._check_channels()
        if self.source == "lerobot":
            count = 3 if self.layout == "tshape" else max(1, len(self.cameras))
            named = f"{count} different keys, as layout {self.layout!r} takes"
            check(self, "cameras", lambda keys: len(keys) == len(set(keys)) == count, named)
        check(self, "tasks", lambda tasks: 0 < len(tasks) == len(set(tasks)), "a list of different task names")

    @property
    def simulated(self) -> bool:
        """True if a simulator makes them."""
        return self.source != "lerobot"

    def _check_channels(self) -> None:
        count = self.action_channels
        controls = len(self.used_channels) or count
        below = f"a list of different controls below {controls}"
        check(self, "unscaled_controls", lambda u: len(set(u)) == len(u) and all(0 <= c < controls for c in u), below)
        below = f"a list of different channels below {count} (action_channels)"
        check(self, "used_channels", lambda u: len(set(u)) == len(u) and all(0 <= c < count for c in u), below)
        lists = f"a list of {count} numbers (action_channels), and the other quantile too"
        for key, other in (("q01", self.q99), ("q99", self.q01)):
            check(self, key, lambda q, o=other: (q is None) == (o is None) and (q is None or len(q) == count), lists)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    """The image autoencoder whose latents the video stream consists of."""

    kind: Literal["trained", "pixels"] = "trained"
    """"pixels": pictures are their own latents, for models with a vision tower, below a `data.root` of their own."""
    pretrained: PathText | None = None
    """Folder of a trained one; null trains it on the episodes."""
    latent_channels: int = 6
    """Channels of a latent frame."""
    width: int = 64
    """Channels inside the network."""
    steps: int = 1500
    """Training steps."""
    batch_size: int = 32
    """Frames per step."""
    lr: float = 2e-3
    """Peak learning rate."""

    def __post_init__(self) -> None:
        check(self, ("latent_channels", "width", "steps", "batch_size"), lambda value: value >= 1, "at least 1")
        check(self, "lr", lambda value: value > 0, "positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class WamConfig:
    """The world-action model."""

    family: str = "lingbot_va"
    """Folder of `flashwam.wam` that holds the family."""
    pretrained: PathText | None = None
    """Folder of a trained teacher; null starts from the config below."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the family's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters: all roles share the teacher's weights, and W + (alpha / rank) B A takes the place of W."""

    rank: int = 32
    """Rows of A and columns of B."""
    alpha: float = 32.0
    """alpha / rank scales what an adapter adds."""
    targets: tuple[str, ...] | None = None
    """Linear layers that get adapters, by the ends of their names; null: those that the model family names."""

    def __post_init__(self) -> None:
        check(self, "rank", lambda value: value >= 1, "at least 1")
        check(self, "alpha", lambda value: value > 0, "positive")
        fits = self.targets is None or (0 < len(self.targets) == len(set(self.targets)) and all(self.targets))
        check(self, "targets", lambda _: fits, "null or a list of different names")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    """The measuring of a model while it is trained: on held-out episodes, and in the simulator where there is one."""

    every: int = 500
    """Steps between measurements; the model that it starts from and the last are measured too."""
    windows: int = 8
    """Windows of held-out episodes."""
    draws: int = 8
    """Draws of every window; 8 or more tell whether they take several ways."""
    nfe: str | None = None
    """Steps per stream and chunk, such as "1v/1a"; null: the first of `evaluate.nfe`."""
    episodes: int = 0
    """Episodes of each task that are driven too, in scenes of their own; 0 for none."""

    def __post_init__(self) -> None:
        check(self, ("every", "windows", "draws"), lambda value: value >= 1, "at least 1")
        check(self, "episodes", lambda value: value >= 0, "at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """One training loop: a teacher's training, a distillation, or a second stage."""

    method: str = "flow_matching"
    """Name in `flashwam.distillation.methods`, or an import path "package.module:Class"."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the method."""
    init: PathText | None = None
    """Folder of the weights the trained model starts from; null: `wam.pretrained` (or fresh ones for a teacher). With
    `lora`, a student that was trained with it from the same teacher."""
    lora: LoraConfig | None = None
    """Train low-rank adapters on one backbone that all roles share; null: every role is a whole model."""
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 32
    """Samples per step over all processes, before accumulation."""
    accumulation: int = 1
    """Batches per optimiser step."""
    lr: float = 1e-4
    """Learning rate after warm-up."""
    warmup_steps: int = 100
    """Steps of linear warm-up from 0."""
    lr_decay: Literal["constant", "cosine"] = "constant"
    """Course of the learning rate after warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW betas."""
    weight_decay: float = 0.0
    """AdamW weight decay."""
    clip_norm: Unlimited = 2.0
    """Gradient norm above which gradients are scaled down; .inf for never."""
    ema_decay: float = 0.995
    """Decay of the target's exponential moving average."""
    save_weights: Literal["student", "target"] = "student"
    """The copy that is exported as the result."""
    precision: Literal["no", "bf16"] = "no"
    """Mixed precision of accelerate."""
    compile: bool = False
    """Compile the network's blocks for training, once for each kind of pass: fewer and larger kernels, and minutes at
    the start. For one process or ddp, worth it on a GPU."""
    strategy: Literal["single", "ddp", "zero2", "zero3", "fsdp"] = "single"
    """The way processes share the work; the zero strategies need deepspeed."""
    shard_teacher: bool = False
    """With fsdp: shard the teacher like the student instead of keeping it whole in every process."""
    offload: bool = False
    """With zero2 or zero3: keep the optimiser's state in the memory of the host."""
    prefetch: int | None = None
    """Steps whose samples are read ahead by a thread; 0 reads each where it is used. null: 2 for data that are read
    from files at every draw (`data.source: lerobot`), 0 for those in memory. No number changes by it."""
    log_every: int = 10
    """Steps between log lines."""
    trackers: tuple[str, ...] = ()
    """Trackers that get the same numbers as TensorBoard, which is always written: wandb, trackio, swanlab, mlflow,
    comet_ml, aim, clearml, dvclive, or the import path of a class of accelerate's GeneralTracker."""
    diagnose_every: int = 50
    """Steps between gradient diagnostics (per-stream norms, cosine); 0 for never."""
    save_every: int = 200
    """Steps between checkpoints."""
    keep_steps: tuple[int, ...] = ()
    """Steps at which an exported copy is kept beside the last, for curves over the budget."""
    judge: JudgeConfig | None = None
    """Measure the model at intervals: TensorBoard shows the measures as judged/..., with trajectories and pictures."""
    keep_best: str | None = None
    """A measure of `judge`, such as all_error_teacher or success: the model that is best by it lies in `best/` beside
    the last."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "accumulation", "log_every", "save_every")
        check(self, positive, lambda value: value >= 1, "at least 1")
        check(self, ("lr", "clip_norm"), lambda value: value > 0, "positive")
        check(self, ("warmup_steps", "weight_decay", "diagnose_every"), lambda value: value >= 0, "at least 0")
        check(self, "prefetch", lambda value: value is None or value >= 0, "at least 0 or null")
        check(self, "ema_decay", lambda value: 0 <= value < 1, "in [0, 1)")
        check(self, "betas", lambda betas: len(betas) == 2 and all(0 <= b < 1 for b in betas), "two in [0, 1)")
        check(self, "keep_steps", lambda kept: all(0 <= k <= self.steps for k in kept), f"in 0..{self.steps} (steps)")
        if self.keep_best is not None:
            check(self, "keep_best", lambda _: self.judge is not None, "null without judge, which measures")
            try:
                check_measure(self.keep_best)
            except InputError as error:
                raise FieldError("keep_best", self.keep_best, f"null or {error}") from None
        check(self, "shard_teacher", lambda value: not value or self.strategy == "fsdp", "false without fsdp")
        check(
            self, "offload", lambda value: not value or self.strategy.startswith("zero"), "false without zero2, zero3"
        )
        shards = "false with zero2, zero3 and fsdp, whose hooks a compiled block would leave out"
        check(self, "compile", lambda value: not value or self.strategy in ("single", "ddp"), shards)
        if self.lora is not None:
            why = "with lora, whose roles share one whole backbone and whose adapters are too small to shard"
            check(self, "strategy", lambda value: value in ("single", "ddp"), f'"single" or "ddp" {why}')


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """The model as it acts: served and evaluated. A training's own draws are always in the model's numbers."""

    precision: Precision = "own"
    """Numbers in which the blocks' linear layers multiply: "own", those of the weights; "fp8", 8-bit ones, which need
    an Ada, Hopper or Blackwell GPU for their speed and are emulated on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Closed-loop and open-loop evaluation."""

    tasks: tuple[str, ...] | None = None
    """Tasks to drive; null: those of `data.tasks`."""
    episodes: int = 50
    """Episodes per task."""
    nfe: tuple[str, ...] = ("1v/1a",)
    """Steps per stream and chunk, such as "1v/2a"; "full" is the teacher's own."""
    open_loop_samples: int = 96
    """Draws for the open-loop measures, 4 of every held-out window; 0 measures none."""
    seed: int = 0
    """Of scenes and noise, where `flashwam evaluate` is given none; its scenes never meet the demonstrations'."""

    def __post_init__(self) -> None:
        check(self, "episodes", lambda value: value >= 1, "at least 1")
        check(self, ("open_loop_samples", "seed"), lambda value: value >= 0, "at least 0")
        check(self, "nfe", lambda value: len(value) >= 1, 'a non-empty list such as ["1v/1a", "1v/2a"]')


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One run, completely."""

    name: str
    """Name of the run; its folder is `run_dir`."""
    run_dir: PathText | None = None
    """Folder of the run; null: runs/<name>."""
    seed: int = 0
    """Seed of every draw of training and distillation."""
    streams: Mapping[str, StreamSpec]
    """Per-stream choices, in generation order."""
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    wam: WamConfig = field(default_factory=WamConfig)
    train: LoopConfig = field(default_factory=LoopConfig)
    distill: LoopConfig | None = None
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that are driven: those of `evaluate`, or else those that it learns from."""
        return self.evaluate.tasks or self.data.tasks

    @property
    def train_from(self) -> str | None:
        """Folder of the model that `train` begins with: `train.init`, which with `lora` names an adapter alone, or else
        `wam.pretrained`; None for fresh weights."""
        return (None if self.train.lora is not None else self.train.init) or self.wam.pretrained

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, _at_home(self, each.name))
        check(self, "name", names_a_folder, "letters, digits, '_', '-' and '.', since it names the run's folder")
        check(self, "name", lambda name: name.lower() not in ("none", "null"), "a name")
        check(self, "seed", lambda value: value >= 0, "at least 0")
        check(self, "streams", lambda streams: len(streams) > 0, "a mapping of at least one stream")
        judges = [loop.judge for loop in (self.train, self.distill) if loop is not None and loop.judge is not None]
        for text in (*self.evaluate.nfe, *(judge.nfe for judge in judges if judge.nfe is not None)):
            parse_nfe(text, tuple(self.streams))


def _at_home(owner: Any, name: str, above: str = "") -> Any:
    """A field's value, with the home folder in the place of a leading ~ in every path in it."""
    value, key = getattr(owner, name), f"{above}{name}"
    if is_dataclass(value) and not isinstance(value, type):
        held = {each.name: _at_home(value, each.name, f"{key}.") for each in fields(value)}
        changed = {inner: new for inner, new in held.items() if new is not getattr(value, inner)}
        return replace(value, **changed) if changed else value
    kind = field_types(owner.__class__, extras=True)[name]
    if isinstance(value, str) and value.startswith("~") and PathText in (kind, *get_args(kind)):
        try:
            return str(user_path(value))
        except ValueError as error:
            raise FieldError(key, value, "below a home folder that is known here") from error
    return value
