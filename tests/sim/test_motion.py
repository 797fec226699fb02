# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.ndimage import shift as shifted

from flashwam.sim.motion import RESTING, MotionField, motion_similarity


def _texture(seed=0, size=64):
    """A picture with something to see at every scale, uint8 [H, W, 3]."""
    noise = np.random.default_rng(seed).standard_normal((size, size))
    smooth = gaussian_filter(noise, 2.0) + 2 * gaussian_filter(noise, 5.0)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.repeat((255 * smooth)[..., None], 3, -1).astype(np.uint8)


def _moved(picture, down, right):
    return shifted(picture.astype(float), (down, right, 0), order=1, mode="nearest").clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("move", [(0.0, 0.0), (1.0, -2.0), (-4.0, 3.0), (0.5, 0.25)])
def test_the_field_of_a_moved_picture_is_its_move(move):
    picture = _texture()
    field = MotionField(picture).to(_moved(picture, *move))
    inner = field[:, 12:-12, 12:-12]
    assert np.abs(inner - np.array(move)[:, None, None]).mean() < 0.1 * max(1.0, np.abs(move).max())


def test_a_flat_picture_shows_no_motion():
    flat = np.full((32, 32, 3), 90, np.uint8)
    assert np.abs(MotionField(flat).to(flat)).max() == 0
    assert np.isfinite(MotionField(flat).to(flat + 40)).all()


def test_similarity_of_same_opposite_crosswise_and_missing_motion():
    picture = _texture()
    right, left, down = (_moved(picture, *move) for move in ((0, 2), (0, -2), (2, 0)))
    observed = np.stack([picture] * 5)
    imagined = np.stack([right, left, down, picture, right])
    happened = np.stack([right, right, right, right, picture])
    same, opposite, across, still, resting = motion_similarity(observed, imagined, happened)
    assert same == pytest.approx(1)
    assert opposite < -0.8
    assert abs(across) < 0.15
    assert still == 0
    assert np.isnan(resting)


def test_noise_of_the_camera_is_rest():
    picture = _texture()
    noisy = np.clip(picture + np.random.default_rng(1).integers(-1, 2, picture.shape), 0, 255).astype(np.uint8)
    assert np.hypot(*MotionField(picture).to(noisy)).mean() < RESTING


def test_films_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="alike in shape"):
        motion_similarity(np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3)), np.zeros((2, 8, 8, 3)))
