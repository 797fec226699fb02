# SPDX-License-Identifier: Apache-2.0
"""Skips the simulator's tests where MetaWorld or a GL backend is missing."""

import importlib.util
from pathlib import Path

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


@pytest.fixture(scope="session")
def two_way_episodes(simulator: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty episodes of faucet-turn, which has two ways; one of them is for validation."""
    from flashwam.pipeline import collect
    from flashwam.recipe.load import load_recipe

    root = tmp_path_factory.mktemp("episodes") / "data"
    small = ["data.tasks=[faucet-turn]", "data.multimodal_episodes=20", "data.processes=1", f"data.root={root}"]
    return collect(load_recipe("metaworld/teacher", small))
