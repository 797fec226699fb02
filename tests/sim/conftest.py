# SPDX-License-Identifier: Apache-2.0
"""Skips the simulator's tests where MetaWorld or a GL backend is missing."""

import importlib.util

import pytest


@pytest.fixture(scope="session")
def simulator() -> None:
    """Needs MetaWorld and a headless GL backend."""
    if importlib.util.find_spec("metaworld") is None or importlib.util.find_spec("av") is None:
        pytest.skip("needs the simulator: pip install 'flashwam[sim]'")
    from flashwam.sim.gl import ensure_gl

    try:
        ensure_gl()
    except RuntimeError as error:
        pytest.skip(str(error))
