# SPDX-License-Identifier: Apache-2.0
"""No source writes a file or a folder by hand: all take `flashwam.system.files`, whose files appear whole."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for name in ("flashwam", "analysis", "benchmarks") for path in (ROOT / name).rglob("*.py"))
WRITERS = "flashwam/system/files.py"

# Names of calls that write to a path, whatever stands before the dot.
WRITING = {
    *("write_text", "write_bytes", "rename", "renames", "touch", "move", "copy2", "copyfile"),
    *("copytree", "save_file", "savefig", "imsave", "savez", "savez_compressed", "write_table", "mkstemp"),
}
# Names that mean other things too: only with this before the dot.
OF_MODULE = {("shutil", "copy"), ("os", "replace"), ("os", "link"), ("torch", "save"), ("np", "save"), ("json", "dump")}
WHOLE = {"whole_file", "whole_folder"}
MEMORY = {"BytesIO", "StringIO", "BufferOutputStream"}

ALLOWED = {
    ("flashwam/system/jobs.py", "open"): "a log grows while its job runs, and is read while it does",
    (
        "flashwam/distillation/metrics.py",
        "open",
    ): "grows by a line a step; a line that was cut off is dropped on resume",
    (
        "flashwam/evaluation/libero_episodes.py",
        "open",
    ): "grows by a line an episode; a line that was cut off is dropped when it goes on",
    ("flashwam/distillation/rollouts.py", "open"): "a lock, of which nothing is read",
    ("analysis/eviction.py", "copytree"): "into a temporary folder of its own",
}


def _writes(call: ast.Call) -> str | None:
    """Name of what a call writes with; None for one that writes nothing to disk."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    if name == "open":
        texts = [
            each.value for each in (*call.args, *(k.value for k in call.keywords)) if isinstance(each, ast.Constant)
        ]
        return name if any(isinstance(text, str) and text[:1] in "wax" and len(text) < 4 for text in texts) else None
    if name in WRITING:
        return name
    before = function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else None
    if (before, name) in OF_MODULE:
        return name
    # A path's `replace` takes one argument; a text's takes two, and that of a dataclass is no method.
    if name == "replace" and isinstance(function, ast.Attribute) and len(call.args) == 1 and not call.keywords:
        return name
    return None


def by_hand(source: str) -> Iterator[str]:
    """Names of calls that write to a path outside `with whole_file(...)` or `with whole_folder(...)`."""

    def walk(node: ast.AST, memory: frozenset[str]) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef):
            made = [n for n in ast.walk(node) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call)]
            memory = frozenset(ast.unparse(n.targets[0]) for n in made if _name(n.value) in MEMORY)
        if isinstance(node, ast.With) and any(_name(item.context_expr) in WHOLE for item in node.items):
            return
        if isinstance(node, ast.Call) and (name := _writes(node)) is not None:
            in_memory = {ast.unparse(each) for each in node.args} & memory
            if not in_memory:
                yield name
        for child in ast.iter_child_nodes(node):
            yield from walk(child, memory)

    yield from walk(ast.parse(source), frozenset())


def _name(node: ast.AST) -> str | None:
    function = node.func if isinstance(node, ast.Call) else node
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def test_every_source_writes_through_one_owner():
    found = {(str(path.relative_to(ROOT)), name) for path in SOURCES for name in by_hand(path.read_text())}
    found = {(path, name) for path, name in found if path != WRITERS}
    assert not found - ALLOWED.keys(), "take whole_file, write_whole or whole_folder of flashwam.system.files"
    assert not ALLOWED.keys() - found, "these exceptions are none any more"


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('a')",
        "(folder / 'a').write_bytes(b'a')",
        "os.replace(a, b)",
        "beside.replace(path)",
        "beside.rename(path)",
        "save_file(weights, path)",
        "safetensors.torch.save_file(weights, path)",
        "torch.save(state, path)",
        "shutil.copytree(a, b)",
        "open(path, 'w').write('a')",
        "path.open(mode='ab')",
        "av.open(str(path), 'w')",
        "def f(path):\n    with whole_file(path) as building:\n        pass\n    path.write_text('a')",
        "def f(path):\n    other = io.BytesIO()\n    torch.save(state, path)",
    ],
)
def test_a_writer_by_hand_is_seen(line):
    assert len(list(by_hand(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "write_whole(path, 'a')",
        "'a'.replace('b', 'c')",
        "replace(recipe, seed=3)",
        "replace(recipe)",
        "path.open()",
        "path.open('rb')",
        "vae.open()",
        "with whole_folder(path) as building:\n    (building / 'a').write_text('a')",
        "with whole_file(path) as building, av.open(str(building), 'w') as file:\n    file.mux(packet)",
        "def f(path):\n    content = io.BytesIO()\n    torch.save(state, content)",
    ],
)
def test_a_writer_through_the_owner_is_none_by_hand(line):
    assert not list(by_hand(line))
