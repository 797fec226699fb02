# SPDX-License-Identifier: Apache-2.0
"""The cost of what a method draws of its teacher before it trains: how much there is, its bytes, and the time."""

from dataclasses import dataclass

from flashwam.distillation.methods import find_method
from flashwam.distillation.prepared import Prepared
from flashwam.distillation.setup import Setup
from flashwam.plan.time import MEASURABLE, forward_seconds
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.system.durations import duration_text
from flashwam.wam.base import WorldActionModel

__all__ = ["Drawing", "drawing"]

# One H100, bfloat16, LingBot-VA at 5.09 billion parameters: analysis/results/rollout/h100.md. A chunk of RoboTwin takes
# 25 guided passes of 240 video tokens and 50 plain ones of 32 action tokens.
_PARAMETERS = 5_088_872_670
_CHUNK_SECONDS, _CHUNK_TOKENS = 5.831, 25 * 2 * 240 + 50 * 32
# The linear layers of one pass alone, captured as a CUDA graph.
_LINEAR_SECONDS, _LINEAR_TOKENS = 6.88e-3, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Draws that a run makes before its first step.

    Args:
        prepared: Of the method.
        seconds: The least and the most that one GPU takes for all of them; None where nothing is known.
        how: How that is known.
    """

    prepared: Prepared
    seconds: tuple[float, float] | None
    how: str

    @property
    def passes(self) -> int | None:
        """The teacher's, for all draws."""
        each = self.prepared.passes
        return None if each is None else self.prepared.count * sum(each.values())

    def rows(self) -> list[tuple[str, str]]:
        """The lines that a plan shows, as (what, how much)."""
        made = self.prepared
        beside = f"; not counted, and more than these: {made.beside}" if made.beside else ""
        size = f"{made.count:,} {made.what} of {made.bytes_each:,} bytes, {_bytes(made.bytes)} in all{beside}"
        if made.passes is None:
            passes = "as many as the teacher's folder says; it is not there yet"
        elif not made.passes:
            passes = "none"
        else:
            each = " + ".join(f"{count} ({' and '.join(stage)})" for stage, count in made.passes.items())
            passes = f"{self.passes:,} passes without gradient, {each} for each"
        return [("made first", size), ("teacher", passes), ("", self._time())]

    def _time(self) -> str:
        if self.seconds is None:
            return f"unknown: {self.how}"
        least, most = (duration_text(seconds) for seconds in self.seconds)
        return f"{least} ({self.how})" if least == most else f"{least} to {most} of one GPU ({self.how})"


def drawing(
    recipe: Recipe, loop: LoopConfig, model: WorldActionModel, *, text: tuple[int, int | None]
) -> Drawing | None:
    """Plans the draws that the recipe's method makes before training; None where it makes none.

    Args:
        recipe: The recipe.
        loop: Its section.
        model: The recipe's, with weights or without.
        text: (L, D) of a sample's text; D is None where the family does not say.
    """
    prepared = find_method(loop.method).prepares(
        loop.options, model=model, frames=recipe.data.window_frames, setup=Setup.of(recipe, loop)
    )
    if prepared is None:
        return None
    if prepared.passes is None:
        return Drawing(prepared=prepared, seconds=None, how="nobody says in how many steps the teacher draws")
    if not prepared.passes:
        return Drawing(prepared=prepared, seconds=(0.0, 0.0), how="nothing is drawn")
    each = {stage: (count, model.draw_tokens(stage)) for stage, count in prepared.passes.items()}
    if any(tokens is None for _, tokens in each.values()):
        return Drawing(prepared=prepared, seconds=None, how="this family does not say how many tokens a draw has")
    tokens = prepared.count * sum(count * (tokens or 0) for count, tokens in each.values())
    parameters = sum(p.numel() for p in model.parameters())
    if parameters > MEASURABLE:
        return _scaled(prepared, tokens, parameters)
    return _timed(prepared, tokens, recipe, loop, model, text)


def _scaled(prepared: Prepared, tokens: int, parameters: int) -> Drawing:
    work = tokens * parameters / _PARAMETERS
    return Drawing(
        prepared=prepared,
        seconds=(work * _LINEAR_SECONDS / _LINEAR_TOKENS, work * _CHUNK_SECONDS / _CHUNK_TOKENS),
        how=(
            "from what one H100 was measured to take for LingBot-VA in bfloat16, by parameters x tokens: the matrix "
            f"products alone, {1e3 * _LINEAR_SECONDS:.2f} ms for {_LINEAR_TOKENS} tokens, and the whole loop with one "
            f"chunk at a time, {_CHUNK_SECONDS:.2f} s for {_CHUNK_TOKENS:,} tokens; many at once lie between, which "
            "nobody has measured; the past of later chunks comes on top"
        ),
    )


def _timed(
    prepared: Prepared,
    tokens: int,
    recipe: Recipe,
    loop: LoopConfig,
    model: WorldActionModel,
    text: tuple[int, int | None],
) -> Drawing:
    length, width = text
    whole = model.pass_tokens(recipe.data.window_frames)
    if width is None or whole is None:
        return Drawing(prepared=prepared, seconds=None, how=f"{recipe.wam.family} does not say how large a sample is")
    each = forward_seconds(recipe, loop, model, (length, width)) / (loop.batch_size * whole)
    return Drawing(
        prepared=prepared,
        seconds=(tokens * each, tokens * each),
        how=f"measured here: {1e6 * each:.0f} us a token of a training's pass",
    )


def _bytes(size: float) -> str:
    """Bytes as they are spoken of, in powers of 1,000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
