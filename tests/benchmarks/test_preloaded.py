# SPDX-License-Identifier: Apache-2.0
"""Steps begin with everything imported, and without it where an import would keep them from the GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LOOK = "import os, sys; print('torch' in sys.modules, 'diffusers' in sys.modules, os.environ.get('WORD')); sys.exit(3)"
USE = """
import os, pathlib, sys
sys.path.insert(0, {benchmarks!r})
import preloaded
if __name__ == "__main__":
    {before}
    process = preloaded.start(("-c", {code!r}), environment={{**os.environ, "WORD": "own"}}, output=pathlib.Path({output!r}))
    process.join()
    sys.exit(process.exitcode)
"""


class Item(NamedTuple):
    path: Path
    n: int


def run(folder: Path, before: str) -> tuple[int, list[str]]:
    """A script that starts one process: its code, and what the process printed."""
    script, output = folder / "use.py", folder / "output.txt"
    told = {"benchmarks": str(ROOT / "benchmarks"), "before": before, "code": LOOK, "output": str(output)}
    script.write_text(USE.format(**told))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, output.read_text().splitlines()


def test_a_process_begins_with_everything_imported(tmp_path: Path) -> None:
    assert run(tmp_path, "preloaded.preload(os.environ)") == (3, ["True True own"])


def test_an_import_that_touched_the_gpu_costs_the_imports_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "touching.py").write_text("import torch\ntorch.cuda._is_in_bad_fork = lambda: True\n")
    before = "preloaded.multiprocessing.get_context('forkserver').set_forkserver_preload(['touching'])"
    code, (told, seen) = run(tmp_path, before)
    assert (code, seen) == (3, "False False own")
    assert "had touched the GPU" in told


def test_parts_share_the_tests_of_the_gpu(monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location("gpu_conftest", ROOT / "tests/gpu/conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    folders = ("gpu", "gpu", "core", "gpu", "gpu", "gpu")
    items = [Item(Path("tests") / folder / "test_x.py", n) for n, folder in enumerate(folders)]
    seen = []
    for part in range(3):
        monkeypatch.setenv("FLASHWAM_TEST_PART", f"{part}/3")
        mine = list(items)
        conftest.pytest_collection_modifyitems(mine)
        seen.append([item.n for item in mine])
    assert seen == [[0, 2, 4], [1, 2, 5], [2, 3]]
    monkeypatch.delenv("FLASHWAM_TEST_PART")
    whole = list(items)
    conftest.pytest_collection_modifyitems(whole)
    assert whole == items
