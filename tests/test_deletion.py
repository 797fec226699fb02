# SPDX-License-Identifier: Apache-2.0
"""A paper's folder can be deleted: nothing but its own recipes, tests and docs misses it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import importlib, pkgutil, sys
import flashwam

PAPERS = ("flashwam.foresight", "flashwam.swiftvla")

class Deleted:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith(PAPERS):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Deleted)
names = [found.name for found in pkgutil.walk_packages(flashwam.__path__, "flashwam.", onerror=lambda name: None)]
kept = [name for name in names if not name.startswith(PAPERS)]
for name in kept:
    importlib.import_module(name)
assert len(kept) > 150, len(kept)
assert not [name for name in sys.modules if name.startswith(PAPERS)]
assert all(hasattr(flashwam, name) for name in flashwam.__all__)

from flashwam.distillation.methods import find_method
find_method("consistency")
try:
    find_method("foresight")
except (ValueError, ImportError) as error:
    print(type(error).__name__, error)
"""


def test_the_package_works_without_the_papers_folders():
    """Both at once, since neither may import the other."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "flashwam.foresight" in done.stdout
