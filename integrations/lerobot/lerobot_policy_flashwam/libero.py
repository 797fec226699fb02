# SPDX-License-Identifier: Apache-2.0
"""``python -m lerobot_policy_flashwam.libero DIR``: initial states of LIBERO as LeRobot reads them.

LeRobot's LIBERO runs on flashwam's packages of it, which are whole without the Hub but keep initial states as NumPy
arrays. LeRobot looks for files of PyTorch's, where the settings in the folder ``LIBERO_CONFIG_PATH`` say.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from flashwam.sim.libero.packages import require_packages
from flashwam.sim.libero.suites import suite_names, suite_tasks
from flashwam.system.errors import InputError, UserError
from flashwam.system.files import write_whole

__all__ = ["main", "write_libero"]


def write_libero(folder: Path, *, suites: Sequence[str] | None = None) -> Path:
    """Writes the initial states of suites, and settings that say where they lie.

    Args:
        folder: Is made where it does not exist.
        suites: All that are whole if None.

    Returns:
        `folder`, for ``LIBERO_CONFIG_PATH``.

    Raises:
        ImportError: LIBERO is not installed.
        ValueError: There is no such suite, or the folder holds other settings.
    """
    require_packages()
    folder = folder.expanduser().absolute()
    states = folder / "init_states"
    # JSON is YAML too.
    settings = json.dumps({"init_states": str(states)}) + "\n"
    path = folder / "config.yaml"
    if path.exists() and path.read_text() != settings:
        raise InputError(f"{path} holds other settings of LIBERO: give a folder without any")
    for suite in suites or suite_names():
        for task in suite_tasks(suite):
            buffer = io.BytesIO()
            torch.save(task.states, buffer)
            target = states / suite / f"{task.name}.pruned_init"
            write_whole(target, buffer.getvalue())
    write_whole(path, settings)
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Writes them where the command line says.

    Args:
        arguments: Of the command line; the process's own if None.

    Returns:
        0; 2 where they cannot be written, with the reason on stderr.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lerobot_policy_flashwam.libero",
        description="Writes LIBERO's initial states as LeRobot reads them, from the packages that flashwam installs.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="for them, and for config.yaml")
    told = parser.parse_args(arguments)
    try:
        folder = write_libero(told.folder)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"LeRobot finds them by: export LIBERO_CONFIG_PATH={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
