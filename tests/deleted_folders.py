# SPDX-License-Identifier: Apache-2.0
"""Uses the package as if folders of it had been deleted: `deleted_folders.py FOLDER[+FOLDER...]...` prints JSON.

For one folder: errors of modules that could not be imported, and what a registry says to a name whose class is gone. For
several: the errors of dry runs of recipes that need none of them. The scripts of `analysis/` are imported like modules.
"""

import contextlib
import importlib
import io
import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, SCRIPTS = ROOT / "flashwam", ROOT / "analysis"
DRY_RUNS = (["train", "teacher", "--dry-run"], ["distill", "flash_wam", "--dry-run"])


class Deleted(MetaPathFinder):
    """Finds nothing below some folders, and nothing that the finders behind it would find there."""

    def __init__(self, folders: list[str]) -> None:
        self.names = [f"flashwam.{folder}" for folder in folders]

    def holds(self, module: str) -> bool:
        return any(f"{module}.".startswith(f"{name}.") for name in self.names)

    def find_spec(self, fullname, path=None, target=None):
        if self.holds(fullname):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def without(folders: list[str]) -> dict[str, dict[str, str]]:
    """Tells of each module, or of a plan, without some folders: what broke and what was refused."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "flashwam"]:
        del sys.modules[name]
    deleted = Deleted(folders)
    sys.meta_path.insert(0, deleted)
    try:
        if len(folders) > 1:
            return {"planned": _planned()}
        return {"broken": _broken(deleted), "refused": _refused(deleted)}
    finally:
        sys.meta_path.remove(deleted)


def _broken(deleted: Deleted) -> dict[str, str]:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.py"))]
    broken = {}
    for name in [name.removesuffix(".__init__") for name in names] + _scripts():
        if deleted.holds(name) or name == "flashwam.__main__":
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            broken[name] = str(error)
    return broken


def _scripts() -> list[str]:
    """Scripts that can be run; what they import lies beside them."""
    paths = sorted(SCRIPTS.glob("*.py"))
    for path in paths:
        sys.modules.pop(path.stem, None)
    if paths and str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    return [path.stem for path in paths if 'if __name__ == "__main__":' in path.read_text()]


def _refused(deleted: Deleted) -> dict[str, str]:
    from flashwam.distillation.methods import METHODS, find_method
    from flashwam.system.errors import InputError
    from flashwam.system.imports import find_class
    from flashwam.wam.base import WorldActionModel
    from flashwam.wam.families import FAMILIES

    def family(name: str) -> type:
        return find_class(name, WorldActionModel, known=FAMILIES, what="model family")

    refused = {}
    for known, find in ((METHODS, find_method), (FAMILIES, family)):
        for name, path in known.items():
            try:
                find(name)
            except InputError as error:
                refused[f"{name} of {path.partition(':')[0]}"] = str(error)
    return refused


def _planned() -> dict[str, str]:
    from flashwam.cli import main

    planned = {}
    for arguments in DRY_RUNS:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = main(list(arguments))
        planned[" ".join(arguments)] = "" if status == 0 and "parameters" in out.getvalue() else err.getvalue()
    return planned


if __name__ == "__main__":
    print(json.dumps({folders: without(folders.split("+")) for folders in sys.argv[1:]}))
