# SPDX-License-Identifier: Apache-2.0
"""Streaming geometry on a GPU: the tokens are the CPU's, and come back from it."""

import numpy as np
import pytest
import torch

from flashwam.swiftvla.geometry import GeometryConfig, GeometryTransformer
from flashwam.swiftvla.streaming import StreamingGeometry

pytestmark = pytest.mark.gpu


def test_one_pass_for_all_caches_is_the_cpus(device):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GeometryTransformer(GeometryConfig(size=16, patch=4, width=16, depth=2, heads=2, vision_depth=1))
    views = np.random.default_rng(0).integers(0, 256, (8, 2, 16, 16, 3), dtype=np.uint8)
    provider = StreamingGeometry(model, side=2)
    expected = list(provider.stream_each(iter(views), (3, 6)))
    model.to(device)
    found = list(provider.stream_each(iter(views), (3, 6)))
    assert found[0][3].device.type == device.type
    for one, other in zip(expected, found, strict=True):
        for capacity in (3, 6):
            torch.testing.assert_close(other[capacity].cpu(), one[capacity], atol=1e-3, rtol=1e-3)
