# SPDX-License-Identifier: Apache-2.0
"""Provenance of an artefact: versions, git revision, machine, time."""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

__all__ = ["git_revision", "package_version", "provenance", "requirements", "specifiers"]

PACKAGES = ("torch", "diffusers", "accelerate", "deepspeed", "safetensors", "numpy", "metaworld", "mujoco")


def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements(name: str) -> dict[str | None, tuple[str, ...]]:
    """Reads what an installed distribution says that it needs.

    Returns:
        Names of distributions by the extra that brings them; those that it always needs under None. Empty where it is
        not installed.
    """
    found: dict[str | None, list[str]] = {}
    for extra, line in _required(name):
        package = re.match(r"[\w.-]+", line)
        if package is not None:
            found.setdefault(extra, []).append(package[0])
    return {extra: tuple(names) for extra, names in found.items()}


def specifiers(name: str, extra: str) -> tuple[str, ...]:
    """The requirements of an installed distribution's extra as pip takes them, such as "bddl==1.0.1"; none where it is
    not installed, or has no such extra."""
    return tuple(line.partition(";")[0].strip() for found, line in _required(name) if found == extra)


def _required(name: str) -> list[tuple[str | None, str]]:
    """The extra that brings it, or None, and the line, of every requirement."""
    try:
        lines = requires(name) or ()
    except PackageNotFoundError:
        lines = ()
    extras = (re.search(r"""extra == ["']([\w.-]+)["']""", line) for line in lines)
    return [(extra and extra[1], line) for extra, line in zip(extras, lines, strict=True)]


def git_revision() -> str | None:
    """Commit the package's source is at, with "+changes" where tracked files differ; None outside a clone."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "flashwam", "recipes")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def provenance() -> dict[str, Any]:
    """Plain values that say what made an artefact."""
    return {
        "flashwam": package_version("flashwam"),
        "git_revision": git_revision(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()
