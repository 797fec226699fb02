# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from flashwam.swiftvla.geometry import GeometryConfig, GeometryTransformer, pool_patches
from flashwam.swiftvla.streaming import CAPACITIES, StreamingGeometry, draw_capacity

FRAMES = 8


def tiny(**changes) -> GeometryTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"size": 16, "patch": 4, "width": 16, "depth": 2, "heads": 2, **changes}
        model = GeometryTransformer(GeometryConfig(**sizes)).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        return model


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (FRAMES, 1, 16, 16, 3), dtype=np.uint8)


def begins(*at: int) -> np.ndarray:
    return np.isin(np.arange(FRAMES), at)


def whole_pass(model, pictures, side=4):
    """The causal pass over all pictures at once, [T, m, C]."""
    pixels = torch.from_numpy(pictures).permute(1, 0, 4, 2, 3).float() / 255
    with torch.no_grad():
        return pool_patches(model(pixels)[0], model.config, side)


@pytest.mark.parametrize("vision_depth", [0, 1])
def test_streaming_equals_the_causal_pass_while_nothing_is_evicted(pictures, vision_depth):
    model = tiny(vision_depth=vision_depth)
    streamed = StreamingGeometry(model, capacity=FRAMES).stream(pictures, begins(0))
    torch.testing.assert_close(streamed, whole_pass(model, pictures), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_the_cache_is_a_queue_of_frames(model, pictures, capacity):
    provider = StreamingGeometry(model, capacity=capacity)
    whole = whole_pass(model, pictures)
    for n in range(FRAMES):
        tokens = provider.step(pictures[n : n + 1])[0]
        assert provider.cached == min(n + 1, capacity)
        same = torch.allclose(tokens, whole[n], atol=1e-5)
        # Frame n sees the K before it and itself: the first one misses something when frame 0 has gone.
        assert same is (n <= capacity)


def test_eviction_drops_the_oldest_frame_and_nothing_else(model, pictures):
    """With one global block, what a frame sees beside itself is the cached frames' own tokens: K back from it."""
    model = tiny(depth=1)
    capacity = 3
    late = StreamingGeometry(model, capacity=capacity).stream(pictures, begins(0))[-1]
    changed = pictures.copy()
    changed[: FRAMES - capacity - 1] = 255 - changed[: FRAMES - capacity - 1]
    torch.testing.assert_close(StreamingGeometry(model, capacity=capacity).stream(changed, begins(0))[-1], late)
    changed = pictures.copy()
    changed[FRAMES - capacity - 1] = 255 - changed[FRAMES - capacity - 1]
    assert not torch.allclose(StreamingGeometry(model, capacity=capacity).stream(changed, begins(0))[-1], late)


def test_an_episode_does_not_see_the_one_before(model, pictures):
    provider = StreamingGeometry(model, capacity=6)
    together = provider.stream(pictures, begins(0, 5))
    assert provider.cached == 3
    torch.testing.assert_close(together[:5], provider.stream(pictures[:5], begins(0)[:5]))
    torch.testing.assert_close(together[5:], provider.stream(pictures[5:], begins(0)[:3]))
    assert not torch.allclose(together[5:], provider.stream(pictures, begins(0))[5:], atol=1e-3)


def test_the_future_is_not_seen(model, pictures):
    changed = pictures.copy()
    changed[5:] = 0
    torch.testing.assert_close(whole_pass(model, changed)[:5], whole_pass(model, pictures)[:5])


def test_views_refresh_the_cache_and_the_last_one_speaks(model):
    views = np.random.default_rng(1).integers(0, 256, (3, 3, 16, 16, 3), dtype=np.uint8)
    by_frame, by_step = (StreamingGeometry(model, capacity=2, unit=unit) for unit in ("frame", "step"))
    for view in views:
        tokens, more = by_frame.step(view[None]), by_step.step(view[None])
    assert (by_frame.cached, by_step.cached) == (2, 6)
    assert tokens.shape == more.shape == (1, 16, 32)
    one_by_one = StreamingGeometry(model, capacity=2).stream(views.reshape(9, 1, 16, 16, 3), np.arange(9) == 0)
    torch.testing.assert_close(tokens[0], one_by_one[-1])


def test_episodes_in_lock_step_do_not_mix(model, pictures):
    provider = StreamingGeometry(model, capacity=3)
    other = pictures[::-1].copy()
    for a, b in zip(pictures, other, strict=True):
        both = provider.step(np.stack([a, b]))
    for row, alone in enumerate((pictures, other)):
        torch.testing.assert_close(both[row], StreamingGeometry(model, capacity=3).stream(alone, begins(0))[-1])


def test_features_are_frozen_and_a_coarser_grid_is_their_mean(model, pictures):
    fine = StreamingGeometry(model, side=4, capacity=3).stream(pictures[:2], begins(0)[:2])
    coarse = StreamingGeometry(model, side=2, capacity=3).stream(pictures[:2], begins(0)[:2])
    assert not fine.requires_grad
    assert not any(p.requires_grad for p in model.parameters())
    means = fine.unflatten(1, (2, 2, 2, 2)).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(coarse, means)


def test_capacities_are_drawn_equally_often():
    generator = np.random.default_rng(0)
    drawn = [draw_capacity(generator) for _ in range(4000)]
    assert set(drawn) == set(CAPACITIES) == {3, 4, 5, 6}
    assert all(abs(drawn.count(k) / 4000 - 0.25) < 0.03 for k in CAPACITIES)


def test_wrong_settings_are_refused(model):
    with pytest.raises(ValueError, match=r"side must be in 1\.\.4"):
        StreamingGeometry(model, side=5)
    with pytest.raises(ValueError, match="unit"):
        StreamingGeometry(model, unit="second")
    with pytest.raises(ValueError, match="capacity"):
        StreamingGeometry(model, capacity=0)
    with pytest.raises(TypeError, match=r"\[B, V, H, W, 3\]"):
        StreamingGeometry(model).step(np.zeros((1, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("unit", ["frame", "step"])
def test_one_pass_serves_caches_of_every_size(unit):
    model = tiny(vision_depth=1)
    views = np.random.default_rng(2).integers(0, 256, (FRAMES, 2, 16, 16, 3), dtype=np.uint8)
    provider = StreamingGeometry(model, side=2, unit=unit)
    seen = []
    model.patch_embed.register_forward_hook(lambda *_: seen.append(1))
    together = list(provider.stream_each(iter(views), CAPACITIES))
    assert len(seen) == 2 * FRAMES
    assert provider.cached == 0
    for capacity in CAPACITIES:
        alone = provider.at_capacity(capacity).stream(views, begins(0))
        assert torch.equal(torch.stack([step[capacity] for step in together]), alone)
    assert not torch.equal(together[-1][3], together[-1][6])
