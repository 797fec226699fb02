# SPDX-License-Identifier: Apache-2.0
"""`python -m flashwam` is the `flashwam` command."""

from typing import NoReturn

from flashwam.cli import main
from flashwam.system.processes import end_process


def command() -> NoReturn:
    """Runs the command line and ends the process with its status."""
    end_process(main())


if __name__ == "__main__":
    command()
