# SPDX-License-Identifier: Apache-2.0
"""A model and a data source small enough for exact oracles."""

from collections.abc import Callable, Iterator

import pytest
import torch
from distill_toys import FRAMES, GaussianTeacher, ToySource, ToyWam
from launching import Trainings

from flashwam.core.batch import Batch
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws


@pytest.fixture
def wam() -> ToyWam:
    return ToyWam.create(seed=1)


@pytest.fixture
def teacher() -> GaussianTeacher:
    return GaussianTeacher()


@pytest.fixture
def specs() -> Callable[..., dict[str, StreamSpec]]:
    """Builds both streams' specs; keywords change both, mappings by stream name change one."""

    def make(video: dict | None = None, action: dict | None = None, **both: object) -> dict[str, StreamSpec]:
        return {
            "video": StreamSpec.from_config("video", {"shift": 5.0, **both, **(video or {})}),
            "action": StreamSpec.from_config("action", {"shift": 1.0, **both, **(action or {})}),
        }

    return make


@pytest.fixture
def batch() -> Batch:
    return ToySource().batch(list(range(4)))


@pytest.fixture
def draws() -> Draws:
    return Draws(seed=5, step=2, positions=range(4))


@pytest.fixture
def frames() -> int:
    return FRAMES


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Trains in several processes."""
    server = Trainings(tmp_path_factory.mktemp("trainings") / "log")
    yield server
    server.close()


torch.manual_seed(0)
