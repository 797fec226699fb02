# SPDX-License-Identifier: Apache-2.0
"""The device that tests compute on: all on the CPU, but for those of `tests/gpu` if FLASHWAM_TEST_DEVICE says so."""

import os
from collections.abc import MutableMapping

VARIABLE = "FLASHWAM_TEST_DEVICE"


def chosen_device() -> str | None:
    """The device of the tests marked `gpu`; None if they are not to run."""
    return os.environ.get(VARIABLE) or None


def hide_gpus(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets this process and those that it starts find no GPU, unless the tests for it were asked for.

    Whatever trains, evaluates or serves takes the GPU where there is one, while toys and expected numbers are on the
    CPU. It must be called before CUDA is asked for its devices, and sets what may have been set before.
    """
    if not environment.get(VARIABLE, "").startswith("cuda"):
        environment["CUDA_VISIBLE_DEVICES"] = ""


def why_not_here(device: str | None, *, gpu: bool, marked: bool) -> str | None:
    """The reason why a test is skipped.

    Args:
        device: What `chosen_device` says.
        gpu: Whether a GPU can be seen.
        marked: Whether the test is marked `gpu`.
    """
    if marked and device is None:
        return f"runs on a GPU with make test-gpu; {VARIABLE}=cpu tries it without one"
    if marked and device != "cpu" and not gpu:
        return f"no GPU is seen here; {VARIABLE}=cpu tries it without one"
    if not marked and device not in (None, "cpu"):
        return f"runs on the CPU, with {VARIABLE} unset"
    return None
