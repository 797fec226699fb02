# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures, and which device the tests compute on."""

from collections.abc import Iterator
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
