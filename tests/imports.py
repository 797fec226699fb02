# SPDX-License-Identifier: Apache-2.0
"""The imports within a package, read from its source, and which of them a page's drawing allows."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Import", "arrows", "circles", "folder_of", "imports", "modules", "reachable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import of one module: who, whom, where, and whether it stands inside a function."""

    source: str
    target: str
    line: int
    late: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def modules(package: Path) -> dict[str, Path]:
    """Every module's dotted name and file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path) -> list[Import]:
    """Every import of every module, those under TYPE_CHECKING included; a name of a package that is a module counts as
    that module."""
    known = modules(package)
    return [
        Import(source=source, target=target, line=line, late=late)
        for source, path in known.items()
        for target, line, late in _walk(ast.parse(path.read_text()), known, late=False)
    ]


def _walk(node: ast.AST, known: Mapping[str, Path], *, late: bool) -> Iterator[tuple[str, int, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno, late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            if child.level:
                raise ValueError(f"line {child.lineno}: write the whole path of an import")
            whole = {f"{child.module}.{alias.name}" for alias in child.names}
            yield from ((name, child.lineno, late) for name in sorted(whole & known.keys()))
            if whole - known.keys():
                yield child.module, child.lineno, late
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _walk(child, known, late=late or inside)


def arrows(page: str) -> dict[str, set[str]]:
    """Folder -> folders that its arrows point to, in the one Mermaid flowchart of a page."""
    (drawing,) = re.findall(r"```mermaid\n(.*?)```", page, re.S)
    found: dict[str, set[str]] = {}
    for left, right in re.findall(r"^\s*(\S.*?) --> (.*\S)\s*$", drawing, re.M):
        for source in left.split(" & "):
            found.setdefault(source, set()).update(right.split(" & "))
        for target in right.split(" & "):
            found.setdefault(target, set())
    return found


def reachable(drawn: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Folder -> every folder that arrows lead to, directly or through others."""

    def follow(folder: str, seen: set[str]) -> set[str]:
        for target in drawn[folder] - seen:
            seen.add(target)
            follow(target, seen)
        return seen

    return {folder: follow(folder, set()) for folder in drawn}


def folder_of(module: str, folders: Iterable[str]) -> str:
    """The drawn folder (or root module) that a module lies in; the narrowest where one lies in another."""
    (package, _, rest) = module.partition(".")
    path = rest.replace(".", "/")
    fitting = [folder for folder in folders if path == folder or path.startswith(f"{folder}/")]
    return max(fitting, key=len) if fitting else path.partition("/")[0] or package


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that lead to each other, largest first."""
    graph: dict[str, set[str]] = {}
    for source, target in edges:
        graph.setdefault(source, set()).add(target)
        graph.setdefault(target, set())
    reach = reachable(graph)
    groups = {tuple(sorted(o for o in reach[name] if name in reach[o])) for name in graph if name in reach[name]}
    return [list(group) for group in sorted(groups, key=len, reverse=True)]
