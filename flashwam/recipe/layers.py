# SPDX-License-Identifier: Apache-2.0
"""A recipe's layers as plain values: YAML and dotted overrides read, one laid over the other, references resolved."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flashwam.system.errors import InputError

__all__ = ["layer_of", "merge", "read_override", "read_yaml", "resolve"]

_MOST_NODES = 100_000
_MISSING = "???"


class _Loader(yaml.SafeLoader):
    """YAML of texts, numbers, lists and mappings from text: 1e3 is a number, a date a text, a key is given once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """See `yaml.SafeLoader`; a key may come again by way of a merge (<<), which it then overrules."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise yaml.constructor.ConstructorError(
                    None, None, f"a key must be a text; got {shown} (quote it)", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


def read_yaml(content: bytes | str, source: str) -> Any:
    """Plain values of YAML: dictionaries with text keys, lists, texts, numbers, booleans, None.

    Args:
        content: The text; bytes are UTF-8.
        source: The file or override it came from, for messages.

    Raises:
        ValueError: It is no YAML, or holds something else.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            _count(node, {})
            values = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
        _check_plain(values)
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not valid YAML: expected UTF-8 text; {error.reason} at {error.start}") from error
    except RecursionError as error:
        raise InputError(f"{source}: not valid YAML: nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        words = [part for part in (error.context, error.problem) if part]
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise InputError(f"{source}: not valid YAML: {' '.join(words)}{place}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise InputError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    return values


def read_override(override: str, source: str, example: str) -> tuple[list[str], Any]:
    """KEY=VALUE as the key's parts and a plain value; ``a.b[0]`` and ``a.b.0`` are the same key.

    Raises:
        ValueError: It has another form.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"{source}: expected key=value, such as {example}")
    keys = re.sub(r"\[(\w+)\]", r".\1", key).split(".")
    if not all(re.fullmatch(r"[^\s.\[\]{}]+", part) for part in keys):
        raise InputError(f"{source}: {key!r} is no key; expected words with dots between, such as {example}")
    return keys, read_yaml(text, source)


def layer_of(
    keys: Sequence[str],
    value: Any,
    below: Any,
    *,
    default: Callable[[Sequence[str]], Any] = lambda at: None,
    at: Sequence[str] = (),
) -> Any:
    """The layer that sets one key: mappings down to it, and all of a list of which it replaces an element.

    Args:
        keys: The key's parts.
        value: What it is set to.
        below: What the layer will be laid over.
        default: Key's parts -> what stands there where no layer says.
        at: Parts above `keys`.

    Raises:
        ValueError: A list has no such element.
    """
    if not keys:
        return value
    (head, *rest), name = keys, ".".join(at)
    held = default(at) if below is None else below
    if isinstance(held, (list, tuple)):
        number = int(head) if re.fullmatch(r"[0-9]{1,9}", head) else len(held)
        if number >= len(held):
            shown = ", ".join(map(str, held[:3])) + (", ..." if len(held) > 3 else "") if held else "..."
            raise InputError(
                f"{name} is a list of {len(held)}: give all of it, such as {name}=[{shown}], or one element by its "
                "number, from 0 on"
            )
        inner = layer_of(rest, value, held[number], at=(*at, head))
        return [merge(each, inner) if place == number else each for place, each in enumerate(held)]
    if head.isdecimal() and isinstance(held, Mapping) and held and head not in held:
        raise InputError(f"{name} is no list, so it has no element {head}; it has {', '.join(map(str, held))}")
    if head.isdecimal() and not isinstance(held, Mapping):
        raise InputError(f"{name} is no list here, so it has no element {head}; give all of it, such as {name}=[...]")
    inside = held.get(head) if isinstance(held, Mapping) else None
    return {head: layer_of(rest, value, inside, default=default, at=(*at, head))}


def merge(below: Any, above: Any) -> Any:
    """One layer over another: mappings are joined key by key, anything else takes the place of what was there."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: merge(below[key], held) if key in below else held for key, held in above.items()}}


def resolve(values: Mapping[str, Any], origin: Callable[[str], str]) -> dict[str, Any]:
    """Replaces references such as ``${seed}`` and ``${oc.env:HOME}``.

    Args:
        values: Merged plain values.
        origin: Dotted key -> where it was set, for messages.

    Raises:
        ValueError: A reference leads nowhere or round in a circle, or a value is left open (``???``).
    """
    if not _first_reference(values):
        return dict(values)
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(dict(values)), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError, ValueError, TypeError, KeyError) as error:
        key = str(getattr(error, "full_key", None) or "") or _first_reference(values)
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise InputError(f"{origin(key)}: {key}: {reason}") from error
    _check_plain(resolved)
    return dict(resolved)


def _first_reference(values: Any, at: str = "") -> str:
    """Dotted key of the first value that is a reference or left open."""
    if isinstance(values, str):
        return at if "${" in values or values == _MISSING else ""
    parts = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    found = (_first_reference(held, f"{at}.{key}" if at else str(key)) for key, held in parts)
    return next((key for key in found if key), "")


def _count(node: Any, counted: dict[int, int]) -> int:
    """Counts how many values a node stands for, with everything that its aliases repeat.

    Raises:
        ValueError: It holds itself, or unreasonably many.
    """
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    known = counted.get(id(node))
    if known is not None:
        if known == 0:
            raise InputError(f"the anchor in line {node.start_mark.line + 1} holds itself")
        return known
    counted[id(node)] = 0
    inner = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
    total = 1 + sum(_count(part, counted) for part in inner)
    if total > _MOST_NODES:
        raise InputError(f"more than {_MOST_NODES:,} values, by what its anchors repeat")
    counted[id(node)] = total
    return total


def _check_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, held in value.items():
            if not isinstance(key, str):
                raise InputError(f"a key must be a text; got {key!r} (quote it)")
            _check_plain(held)
    elif isinstance(value, list):
        for held in value:
            _check_plain(held)
    elif value is not None and not isinstance(value, (str, int, float)):
        raise InputError(f"expected texts, numbers, lists and mappings; got {value!r} ({type(value).__name__})")
