# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures, and which device the tests compute on."""

import gc
import importlib.util
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
from devices import chosen_device, hide_gpus, why_not_here
from oracles import oracle_folder
from order import place

hide_gpus()
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place(item.path))
    device, gpu = chosen_device(), torch.cuda.is_available()
    for item in items:
        reason = why_not_here(device, gpu=gpu, marked=item.get_closest_marker("gpu") is not None)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps to the end what the test files import: half a million objects, which no collection of garbage looks at."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Embedded prompts are kept in a folder of this run's own, also by the processes that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHWAM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of numbers made by the original implementations."""
    return oracle_folder()


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
