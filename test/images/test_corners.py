"""Corners are spread over the image, also where it is dark, and there are none in noise."""

import cv2
import numpy as np

from vggt_ros.benchmarks.disturbances import texture
from vggt_ros.images.corners import detect_corners

SIZE = 320, 240


def checkerboard(contrast, mean, noise=0.0):
    rng = np.random.default_rng(0)
    board = np.kron(np.indices((12, 16)).sum(0) % 2, np.ones((20, 20)))
    image = mean + contrast * (board - 0.5) + noise * rng.standard_normal(board.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def test_corners_of_a_checkerboard_are_found_where_they_are():
    corners = detect_corners(checkerboard(150, 128), 400, 8)
    true = np.array([(20.0 * i - 0.5, 20.0 * j - 0.5) for i in range(1, 16) for j in range(1, 12)])
    distance = np.linalg.norm(corners[:, None] - true[None], axis=2)
    assert (distance.min(0) < 2.5).all(), "each corner of the board has one"
    assert (distance.min(1) < 2.5).all(), "and there are no others"


def test_a_lamp_does_not_take_the_corners_of_a_dark_hall():
    """The right half has 8 % of the contrast of the left one: 1/150 of the response."""
    image = np.concatenate([checkerboard(230, 128)[:, :160], checkerboard(18, 20)[:, :160]], axis=1)
    corners = detect_corners(image, 100, 8)
    right = (corners[:, 0] > 165).sum()
    assert right > 30
    ordinary = cv2.goodFeaturesToTrack(image, 100, 0.01, 8).reshape(-1, 2)
    assert (ordinary[:, 0] > 165).sum() == 0, "which is what one threshold for all does"


def test_noise_has_no_corners():
    rng = np.random.default_rng(1)
    plain = np.clip(90 + 1.0 * rng.standard_normal((240, 320)), 0, 255).astype(np.uint8)
    assert len(detect_corners(plain, 400, 8)) < 15
    assert not len(detect_corners(np.zeros((240, 320), np.uint8), 400, 8))


def test_fine_texture_everywhere_is_not_taken_for_noise():
    gray = np.asarray(cv2.cvtColor(texture(240, 320, seed=4), cv2.COLOR_RGB2GRAY), np.uint8)
    assert len(detect_corners(gray, 300, 8)) == 300


def test_spacing_count_and_mask_are_kept():
    gray = np.asarray(cv2.cvtColor(texture(240, 320, seed=4), cv2.COLOR_RGB2GRAY), np.uint8)
    free = np.full(gray.shape, 255, np.uint8)
    free[:, :200] = 0
    corners = detect_corners(gray, 60, 9, free)
    assert 30 < len(corners) <= 60
    assert (corners[:, 0] >= 200).all()
    apart = np.abs(corners[:, None] - corners[None]).max(2) + 100 * np.eye(len(corners))
    assert apart.min() >= 9
