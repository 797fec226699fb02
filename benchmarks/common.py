# SPDX-License-Identifier: Apache-2.0
"""What every benchmark says of the run that made its numbers."""

import argparse
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

from flashwam.provenance import provenance

__all__ = ["about"]


def about(script: str, arguments: argparse.Namespace, *, device: str = "cpu") -> dict[str, Any]:
    """Command, arguments, date, machine and versions, as plain values."""
    cuda = device.startswith("cuda")
    return {
        # Versions first: the command of the provenance is this process' own line, without the interpreter.
        **provenance(),
        "command": f"python benchmarks/{Path(script).name}",
        "arguments": {key: str(value) for key, value in vars(arguments).items()},
        "date": date.today().isoformat(),
        "machine": torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU",
        "cores": os.cpu_count(),
    }
