# SPDX-License-Identifier: Apache-2.0
"""`flashwam plan --serve`: bytes that a served model needs on a GPU, counted by a rehearsal without memory."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.plan.around import built_around, seems_built_around
from flashwam.plan.dry_run import GIB, gib
from flashwam.plan.names import check_names
from flashwam.plan.rehearsal import counted_bytes, held_bytes
from flashwam.plan.sizes import meta_model, model_size, text_shape
from flashwam.recipe.sections import Recipe
from flashwam.sampling import Rollout, samplers_for
from flashwam.system.errors import InputError
from flashwam.wam import family
from flashwam.wam.base import WorldActionModel
from flashwam.wam.dtypes import dtype_named
from flashwam.wam.files import files_of

__all__ = ["ServingPlan", "plan_serving", "serving_lines", "serving_numbers"]

_CHUNKS = 3
_FEW = (2, 3)
"""Numbers of blocks that are rehearsed; what every further block adds is their difference."""
NOTE = (
    "counted by running the model and its autoencoder on tensors without memory; not counted: the CUDA context, the "
    "allocator's rounding, kernels' scratch space and CUDA graphs, 1 to 2 GiB"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Bytes of a rollout or of an autoencoder at work.

    Args:
        stays: Between the chunks of an episode.
        passing: On top of that while a chunk is computed, at most.
    """

    stays: int
    passing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPlan:
    """Everything that `flashwam plan --serve` shows; bytes are of one GPU.

    Args:
        recipe: Name of the recipe.
        kind: "student" or "teacher", which is guided where its streams are.
        dtype: Of model and autoencoder.
        precision: Of the rollout, see `flashwam.core.precision`.
        sessions: Episodes at once; their chunks are computed one after the other.
        growing: How many of them have a cache that grows with what is in it, up to twice a full window's.
        memory: Bytes of the GPU; None where there is no limit to compare with.
        weights: Of the model.
        autoencoder: Its weights.
        past: Of an episode in the model: the cache of a full window, keys and values of the text, what was seen last.
        pictures: Of an episode in the autoencoder.
        text_encoder: Bytes in the host's memory while a new prompt is embedded; none on the GPU.
        warnings: What to mind, in sentences.
    """

    recipe: str
    kind: Literal["student", "teacher"]
    dtype: str
    precision: str
    sessions: int
    growing: int
    memory: float | None
    weights: int
    autoencoder: int
    past: Held
    pictures: Held
    text_encoder: int
    warnings: tuple[str, ...]

    @property
    def parts(self) -> dict[str, int]:
        """Part -> bytes, as they add up to the peak."""
        # Both buffers are there while one moves, of one episode at a time.
        moving = 2 * self.past.stays if self.growing else 0
        return {
            "weights": self.weights,
            "autoencoder": self.autoencoder,
            "past": (self.sessions + self.growing) * self.past.stays,
            "pictures": self.sessions * self.pictures.stays,
            "a chunk": max(self.past.passing + moving, self.pictures.passing),
        }

    @property
    def peak(self) -> int:
        """The most that is needed at once."""
        return sum(self.parts.values())


def plan_serving(
    recipe: Recipe,
    kind: Literal["student", "teacher"] | None = None,
    *,
    dtype: str = "bfloat16",
    precision: str | None = None,
    rollout: str | None = None,
    sessions: int = 1,
    memory_gib: float | None = None,
    trust: bool = False,
) -> ServingPlan:
    """Plans the service of a recipe's model, with what its rollout keeps of a full window.

    Args:
        recipe: The recipe.
        kind: Which of its models; the student where it distils by default.
        dtype: "bfloat16" or "float32".
        precision: "own" or "fp8", see `WorldActionModel.choose_precision`; what the recipe says if None.
        rollout: See `WorldActionModel.choose_rollout`; what the recipe says if None.
        sessions: Episodes at once.
        memory_gib: GiB of the GPU, to tell whether it fits.
        trust: See `load_wam`, of a model that only a folder describes.

    Raises:
        ValueError: for a number out of range, an unknown dtype, a precision or rollout that the model cannot have, a
            policy that is built on the recipe's model, or a model that looks at values as it draws.
    """
    chosen = dtype_named(dtype)
    if sessions < 1:
        raise InputError(f"sessions must be at least 1; got {sessions}")
    if memory_gib is not None and not (math.isfinite(memory_gib) and memory_gib > 0):
        raise InputError(f"memory must be a positive number of GiB; got {memory_gib!r}")
    check_names(recipe, "train" if recipe.distill is None else "distill")
    kind = kind or ("teacher" if recipe.distill is None else "student")
    if told := built_around(recipe, recipe.distill if kind == "student" else None, trust=trust):
        raise InputError(f"recipe {recipe.name!r}: {told}: serve it, and read the GPU's memory off there")
    model = meta_model(recipe, trust=trust)
    precision = recipe.rollout.precision if precision is None else precision
    lanes = _lanes(model, rollout or recipe.wam.config.get("rollout", "dynamic"), asked=rollout is not None)
    past, fixed, endless = _past(recipe, model, teacher=kind == "teacher", dtype=chosen, precision=precision)
    growing = max(0, sessions - lanes) if fixed and lanes is not None else 0
    autoencoder, pictures = _pictures(recipe, model, chosen)
    files = files_of(recipe.wam.family)
    read = recipe.data.source == "lerobot" and files is not None
    return ServingPlan(
        recipe=recipe.name,
        kind=kind,
        dtype=dtype,
        precision=precision,
        sessions=sessions,
        growing=growing,
        memory=None if memory_gib is None else memory_gib * GIB,
        weights=held_bytes(_as_served(model, chosen, precision)),
        autoencoder=autoencoder,
        past=past,
        pictures=pictures,
        # Prompts are embedded in bfloat16 whatever the model runs in.
        text_encoder=2 * files.text_encoder_parameters if read and files is not None else 0,
        warnings=_warnings(growing, endless=endless, seems=seems_built_around(recipe) if kind == "student" else None),
    )


def _as_served(model: WorldActionModel, dtype: torch.dtype, precision: str) -> WorldActionModel:
    """The model without memory, in the numbers in which it is served."""
    model.to("meta", dtype).eval()
    model.choose_precision(precision)
    return model


def _fixed(model: WorldActionModel) -> bool:
    """Has rollouts computed with a cache of fixed size; False where a family has none, and then in its plainest way."""
    for rollout in ("static", "dynamic"):
        with suppress(InputError):
            model.choose_rollout(rollout)
            return rollout == "static"
    return False


def _lanes(model: WorldActionModel, rollout: str, *, asked: bool) -> int | None:
    """Counts the sessions whose cache is of fixed size under a rollout; None where all of them are."""
    try:
        model.choose_rollout(rollout)
    except InputError:
        # A family of one way refuses every name, also that of the recipes' default.
        if asked:
            raise
        return None
    return {"dynamic": 0, "graphed": model.warm_up_sessions}.get(rollout)


def _warnings(growing: int, *, endless: bool, seems: str | None) -> tuple[str, ...]:
    found = [] if seems is None else [seems]
    if growing:
        found.append(
            f"{growing} session(s) run 'dynamic', whose cache grows with what is in it: twice a full window's past is "
            "counted for each, and twice that while it moves into a larger buffer; --rollout names other ways"
        )
    if endless:
        found.append(f"this model's past grows without end; it is counted after {_CHUNKS} chunks")
    return tuple(found)


def _past(
    recipe: Recipe, model: WorldActionModel, *, teacher: bool, dtype: torch.dtype, precision: str
) -> tuple[Held, bool, bool]:
    """Bytes of an episode, whether its cache is of fixed size, and whether they still grow from chunk to chunk."""
    kind, config = family(recipe.wam.family), dict(recipe.wam.config)
    known, fixed = kind.keywords(), _fixed(model)
    samplers = samplers_for(recipe.streams, steps=dict.fromkeys(model.streams, 1), teacher=teacher)
    shape = text_shape(recipe, model)
    layers = model_size(model).layers

    shared: list[Any] = []

    def rehearsed(**changes: int) -> list[tuple[int, int]]:
        one = model
        if config:
            with torch.device("meta"):
                one = kind.create(**{**config, **changes})
        _fixed(one)
        served = _as_served(one, dtype, precision)
        with _needing_no_values(recipe):
            counts, left = _rehearse(served, samplers, text=(shape[0], shape[1] or 1), dtype=dtype, known=shared)
        shared.extend(left)
        return counts

    few = [{"num_layers": count} for count in _FEW] if "num_layers" in known and layers > max(_FEW) else [{}]
    # Tables that all episodes of a process share are made in the first rehearsal, which is not counted.
    rehearsed(**few[0])
    fewer, *more = (rehearsed(**changes) for changes in few)
    stays, peak = fewer[-1]
    if more:
        rest = layers - _FEW[0]
        stays, peak = stays + rest * (more[0][-1][0] - stays), peak + rest * (more[0][-1][1] - peak)
    return Held(stays=stays, passing=peak - stays), fixed, fewer[-1][0] > fewer[-2][0]


@contextmanager
def _needing_no_values(recipe: Recipe) -> Iterator[None]:
    """Words the error of a model that chooses by its tensors' values, of which a rehearsal has none."""
    try:
        yield
    except RuntimeError as error:
        if "meta" not in str(error).lower():
            raise
        raise InputError(
            f"recipe {recipe.name!r}: what serving takes is counted on tensors without values, and a model of family "
            f"{recipe.wam.family} asks for them as it draws ({error}): serve it, and read the GPU's memory off there"
        ) from error


def _rehearse(
    model: WorldActionModel, samplers: Mapping[str, Any], *, text: tuple[int, int], dtype: torch.dtype, known: list[Any]
) -> tuple[list[tuple[int, int]], list[Any]]:
    """Bytes that are held after every chunk and the most so far, without those of known storages; and the storages that
    outlive the episode."""

    def frames(count: int) -> dict[str, Tensor]:
        shapes = model.layout.observed_shapes
        return {name: torch.empty(1, c, count, h, w, dtype=dtype, device="meta") for name, (c, h, w) in shapes.items()}

    counts = []
    with counted_bytes(model, known=known) as live:
        embedded = torch.empty(1, *text, dtype=dtype, device="meta")
        rollout = Rollout(model, samplers, text=embedded, null_text=embedded[0], first=frames(1))
        del embedded
        for _ in range(_CHUNKS):
            executed = rollout.executed
            rollout.predict()
            rollout.observe(frames(executed.stop - (executed.start if model.conditions_on_first else 0)))
            counts.append((live.now, live.peak))
        del rollout
        return counts, live.left


def _pictures(recipe: Recipe, model: WorldActionModel, dtype: torch.dtype) -> tuple[int, Held]:
    """Bytes of the autoencoder, and of an episode's pictures in it."""
    files, data = files_of(recipe.wam.family), recipe.data
    codec = None
    if data.source == "lerobot" and files is not None and data.cameras:
        norm = ActionNorm(q01=(-1.0,), q99=(1.0,), used=(0,))
        meta = torch.device("meta")
        codec = files.blank_codec(data, actions=norm, prompts=lambda _: torch.empty(0), dtype=dtype, device=meta)
    if codec is None:
        # A few small convolutions; whatever passes through them is less than they are.
        with torch.device("meta"):
            small = FrameAutoencoder(latent_channels=model.shapes["video"][0], width=recipe.autoencoder.width)
        return held_bytes(small), Held(stays=0, passing=0)
    black = {key: np.zeros((*data.camera_size, 3), np.uint8) for key in data.cameras}
    with counted_bytes(codec.vae) as live:
        session = codec.open()
        for count in (1, codec.keyframes_per_frame * model.execute_frames):
            session.encode([black] * count)
        stays, peak = live.now, live.peak
    return held_bytes(codec.vae), Held(stays=stays, passing=peak - stays)


def serving_lines(plan: ServingPlan) -> list[str]:
    """Formats a plan as `flashwam plan --serve` prints it."""
    limit = "" if plan.memory is None else f" of {plan.memory / GIB:g} GiB"
    each = "" if plan.sessions == 1 else f" of {plan.sessions} episodes"
    told = {
        "weights": "of the model",
        "autoencoder": "its weights",
        "past": f"the full window's keys and values{each}, those of the text, what was seen last",
        "pictures": f"what the autoencoder keeps of them{each}",
        "a chunk": "more than that while one is computed or its pictures are encoded",
    }
    rounded = "" if plan.precision == "own" else f", linear layers in {plan.precision}"
    lines = [f"serve {plan.recipe}: {plan.kind}, {plan.dtype}{rounded}, one GPU{limit}"]
    lines += [f"  {name:<13}{gib(size):>10}  {told[name]}" for name, size in plan.parts.items()]
    lines.append(f"  {'peak':<13}{gib(plan.peak):>10}  {_verdict(plan)}".rstrip())
    if plan.text_encoder:
        lines.append(
            f"  {'text encoder':<13}{gib(0):>10}  it runs on the CPU, in {gib(plan.text_encoder)} of memory there, "
            "and only for new prompts"
        )
    return [*lines, f"  note         {NOTE}", *(f"  warning      {text}" for text in plan.warnings)]


def _verdict(plan: ServingPlan) -> str:
    if plan.memory is None:
        return ""
    spare = plan.memory - plan.peak
    return f"fits, {gib(spare)} spare" if spare >= 0 else f"does NOT fit, {gib(-spare)} over"


def serving_numbers(plan: ServingPlan) -> dict[str, Any]:
    """Gives a plan's numbers as `flashwam plan --serve --json` writes them; bytes are of one GPU."""
    return {
        "recipe": plan.recipe,
        "kind": plan.kind,
        "dtype": plan.dtype,
        "precision": plan.precision,
        "sessions": plan.sessions,
        "growing_sessions": plan.growing,
        "memory_gib": None if plan.memory is None else plan.memory / GIB,
        "bytes": plan.parts,
        "peak_bytes": plan.peak,
        "fits": None if plan.memory is None else plan.peak <= plan.memory,
        "text_encoder_bytes_on_host": plan.text_encoder,
        "notes": [NOTE],
        "warnings": list(plan.warnings),
    }
