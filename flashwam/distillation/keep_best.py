# SPDX-License-Identifier: Apache-2.0
"""The measure that `keep_best` names, held against what a recipe's judge can measure."""

from flashwam.core.measures import FEWEST_DRAWS
from flashwam.distillation.judging import MeasuredApart
from flashwam.distillation.methods import find_method
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.system.errors import InputError

__all__ = ["MEASURES_OF_PICTURES", "MEASURES_OF_WAYS", "check_keep_best", "is_measured_apart"]

_SUCCESS = "success"
MEASURES_OF_WAYS = ("same_way", "student_between")
"""The measures that are there only where a teacher's draws fall apart into ways."""
_NEAR, _RECORDED = "all_error_teacher", "all_error_recorded"
_OF_STREAM = ("_error_teacher", "_error_expert", "_variance_ratio")
_VIDEO = "video"
MEASURES_OF_PICTURES = tuple(f"{_VIDEO}_decoded_{end}" for end in ("error_teacher", "error_expert", "sharpness_ratio"))
"""The measures that are there only where something decodes what is drawn."""


def check_keep_best(recipe: Recipe, loop: LoopConfig, *, taught: bool) -> None:
    """Refuses a `keep_best` that no moment of a training can have, before anything is made.

    Args:
        recipe: The recipe.
        loop: Its section that is about to run.
        taught: The model is distilled from a teacher.

    Raises:
        ValueError: The recipe's judge never measures it; the message says why, and what to set.
    """
    name = loop.keep_best
    if name is None or loop.judge is None:
        return
    find = _never_driven if name.endswith(_SUCCESS) else _never_drawn
    if (why := find(recipe, loop, name, taught=taught)) is not None:
        raise InputError(f"recipe {recipe.name!r}: keep_best is {name}, which is never measured: {why}")


def is_measured_apart(loop: LoopConfig) -> bool:
    """Tells whether a training is measured by its method alone, see `MeasuredApart`."""
    kind = find_method(loop.method)
    return issubclass(kind, MeasuredApart) and kind.measured_apart(loop.options)


def _never_driven(recipe: Recipe, loop: LoopConfig, name: str, *, taught: bool) -> str | None:
    """Says why a success is never measured; None where it is."""
    other = f"set keep_best to {_NEAR if taught else _RECORDED}"
    assert loop.judge is not None
    if not recipe.data.simulated:
        return f"the data are recordings, whose tasks nothing drives; {other}"
    if is_measured_apart(loop):
        return f"after this stage of {loop.method} nothing drives yet; name one of its own measures"
    if not loop.judge.episodes:
        return f"judge.episodes is 0, so nothing is driven; set it, such as judge.episodes=5, or {other}"
    driven = [_SUCCESS, *(f"{task}_{_SUCCESS}" for task in recipe.tasks)]
    return None if name in driven else f"measured are {', '.join(driven)}"


def _never_drawn(recipe: Recipe, loop: LoopConfig, name: str, *, taught: bool) -> str | None:
    """Says why a measure of draws is never measured; None where it is, or its method alone knows."""
    assert loop.judge is not None
    if is_measured_apart(loop):
        told = f"after this stage of {loop.method} no controls are drawn yet; name one of its own measures"
        return told if name in (*MEASURES_OF_WAYS, _NEAR, _RECORDED) else None
    of_streams = [f"{stream}{end}" for stream in recipe.streams for end in _OF_STREAM]
    of_pictures = MEASURES_OF_PICTURES if _VIDEO in recipe.streams else ()
    by_teacher = [_NEAR, *of_streams, *of_pictures, *MEASURES_OF_WAYS]
    if not taught and name in by_teacher:
        return f"it holds a model against its teacher, and this training has none; set keep_best to {_RECORDED}"
    known = [*(by_teacher if taught else []), _RECORDED]
    if name not in known:
        return f"measured are {', '.join(known)}"
    draws = loop.judge.draws
    if name in MEASURES_OF_WAYS and draws < FEWEST_DRAWS:
        return f"judge.draws is {draws}, and {FEWEST_DRAWS} or more tell ways; set judge.draws={FEWEST_DRAWS}"
    if name.endswith("_variance_ratio") and draws < 2:
        return f"judge.draws is {draws}, and one draw has no variance; set judge.draws={FEWEST_DRAWS}"
    return None
