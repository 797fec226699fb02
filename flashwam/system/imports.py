# SPDX-License-Identifier: Apache-2.0
"""Names of classes: short ones, or import paths "package.module:Class"; and keywords.

Who names a class decides what may be imported for it. A user who writes a path, in a recipe or in Python, has it
imported. A file that may be anybody's names known classes alone, unless its reader trusts it; readers say so with
`reading`, and `trusting` lets through what they come to.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flashwam.system.errors import InputError
from flashwam.system.paths import user_path

__all__ = [
    "check_keywords",
    "class_name",
    "find_class",
    "find_function",
    "foreign_paths",
    "named_parameters",
    "reading",
    "refuse_foreign",
    "trusting",
]

OLD_PATHS = {
    "flashwam.data.pictures:FramePictures": "frames",
    "flashwam.distillation.methods.foresight:Foresight": "foresight",
    "flashwam.distillation.methods.masked_reconstruction:MaskedReconstruction": "masked_reconstruction",
    "flashwam.policies.foresight:ForesightPolicy": "foresight",
    "flashwam.policies.fusion:FusionPolicy": "fusion",
    "flashwam.policies.smolvla:SmolVLA": "smolvla",
    "flashwam.targets.scene:SceneEncoder": "scene",
    "flashwam.targets.vision:VisionModel": "vision",
    "flashwam.wam.cogvideox.pictures:CogVideoXPictures": "cogvideox",
    "flashwam.wam.cogvideox:CogVideoX": "cogvideox",
    "flashwam.wam.lingbot_va.pictures:WanPictures": "lingbot_va",
    "flashwam.wam.lingbot_va:LingBotVA": "lingbot_va",
}
"""Import path of ours that a file may hold -> the name it has now. A class that moves keeps its line."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")

_file: ContextVar[Path | None] = ContextVar("flashwam_file", default=None)
_trust: ContextVar[bool] = ContextVar("flashwam_trust", default=False)
_named: ContextVar[frozenset[str]] = ContextVar("flashwam_named", default=frozenset())


@contextmanager
def trusting(trust: bool, *, named: Iterable[str] = ()) -> Iterator[None]:
    """Within it, files that are read may name classes of other packages, if `trust` is set here or around.

    Args:
        trust: Any class.
        named: Import paths that the user has named himself, such as his recipe's; files may name these too.
    """
    tokens = _trust.set(_trust.get() or trust), _named.set(_named.get() | frozenset(named))
    try:
        yield
    finally:
        _trust.reset(tokens[0])
        _named.reset(tokens[1])


@contextmanager
def reading(file: Path | str) -> Iterator[None]:
    """Within it, every name that is looked up is that file's, not the user's."""
    token = _file.set(user_path(file))
    try:
        yield
    finally:
        _file.reset(token)


def find_class(name: object, base: type, *, known: Mapping[str, type | str], what: str) -> type[Any]:
    """Finds the subclass of `base` that `name` stands for.

    Args:
        name: A key of `known`, or "package.module:Class".
        base: What the class must derive from.
        known: Short name -> class or import path. Other paths are looked for in the current folder too.
        what: What it is, for error messages, such as "method".

    Raises:
        ValueError: for an unknown name, an import that fails, something that is no subclass of `base`, or a path that
            stands in a file which the caller does not trust, see `reading`.
    """
    if not isinstance(name, str):
        raise InputError(
            f"{_at()}{what} must be a name, one of {sorted(known)} or 'package.module:Class'; got {name!r}"
        )
    short = OLD_PATHS.get(name, name)
    if short not in known and name in known.values():
        short = next(key for key, held in known.items() if held == name)
    found = known.get(short, name)
    if isinstance(found, type):
        return found
    if not _PATH.fullmatch(found):
        raise InputError(f"{_at()}unknown {what} {name!r}; expected one of {sorted(known)} or 'package.module:Class'")
    file = _file.get()
    if short not in known and file is not None:
        refuse_foreign(file, {name: what})
    if short not in known:
        _look_here_too()
    found = _imported(found, what, name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{what} {name!r} must be a subclass of {base.__module__}.{base.__name__}; got {found!r}")
    return found


def find_function(path: str, *, what: str) -> Callable[..., Any]:
    """The function that an import path of our own, or of a class that is trusted already, leads to.

    Args:
        path: "package.module:function".
        what: What it is, for error messages.

    Raises:
        ValueError: The import fails.
    """
    function: Callable[..., Any] = _imported(path, what, path)
    return function


def _imported(path: str, what: str, name: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        kind: Any = importlib.import_module(module)
        for part in attribute.split("."):
            kind = getattr(kind, part)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{what} {name!r} could not be imported: {error}") from error
    return kind


def _look_here_too() -> None:
    """Lets a user's own module lie in the current folder, as `python -m` and notebooks do and a console script does
    not; after everything that is installed, so that nothing there is taken for it."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def named_parameters(config: str | Mapping[str, Any], what: str) -> dict[str, Any]:
    """{"name": ..., and its parameters} from a name alone or a mapping with one.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(config, str):
        return {"name": config}
    if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):
        raise InputError(f"{_at()}{what} must be a name, or a mapping with one; got {config!r}")
    return dict(config)


def class_name(kind: type, known: Mapping[str, type | str]) -> str:
    """Names a class for a file, so that `find_class` finds it again: its short name, or its import path."""
    for name, held in known.items():
        module, _, attribute = held.partition(":") if isinstance(held, str) else ("", "", "")
        if kind is (held if isinstance(held, type) else getattr(sys.modules.get(module), attribute, None)):
            return name
    return f"{kind.__module__}:{kind.__qualname__}"


def foreign_paths(content: object, at: str = "") -> dict[str, str]:
    """Import paths that stand anywhere in plain values and are none of ours -> the dotted key they stand at."""
    if isinstance(content, str):
        return {content: at} if _PATH.fullmatch(content) and content not in OLD_PATHS else {}
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(content, Mapping):
        parts = content.items()
    elif isinstance(content, (list, tuple)):
        parts = enumerate(content)
    return {path: key for name, held in parts for path, key in foreign_paths(held, f"{at}.{name}".strip(".")).items()}


def refuse_foreign(file: Path, named: Mapping[str, str]) -> None:
    """Refuses what a file would have imported, unless it is trusted.

    Args:
        file: The file, for the message.
        named: Import path -> what the file names it as.

    Raises:
        ValueError: naming the first of them, and how to allow it.
    """
    if _trust.get():
        return
    for path, what in named.items():
        if path in _named.get():
            continue
        raise InputError(
            f"{file} names the {what} {path!r}: loading it would import {path.partition(':')[0]!r} and run its code. "
            "If you know where the file comes from, allow it for this call with --trust, in Python with trust=True"
        )


def _at() -> str:
    file = _file.get()
    return "" if file is None else f"{file}: "


def check_keywords(at: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuses keywords that are not known.

    Args:
        at: Where they were given, for the message.
        given: Their names.
        known: Names there are.

    Raises:
        ValueError: naming the nearest known one.
    """
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{at}.{key}: unknown key{hint}; it takes {', '.join(known) or 'none'}")
