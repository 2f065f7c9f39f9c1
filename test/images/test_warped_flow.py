"""Optical flow over a fast turn: points are followed in the image warped by the homography that a few agree on."""

import numpy as np
import pytest

from vggt_ros.config import Config
from vggt_ros.features.tracks import follow
from vggt_ros.geometry.poses import pose, so3_exp
from vggt_ros.images.exposure import gray_image
from vggt_ros.images.warped_flow import homography, mapped
from vggt_ros.reconstruction.multiview.matching.tracks import track
from vggt_ros.reconstruction.multiview.matching.views import View
from vggt_ros.reconstruction.multiview.settings import MultiviewConfig
from vggt_ros.synthetic import orbit, pinhole, room
from vggt_ros.windows.keyframe import Keyframe

SIZE = (480, 360)


@pytest.fixture(scope="module")
def turned():
    """Two views of a room from one place, with a roll of 25 degrees between, and the homography of that."""
    scene, matrix = room(), pinhole(*SIZE)
    begin = orbit(60)[0]
    turn = so3_exp(np.array([0.05, 0.12, np.radians(25)]))
    images = [scene.render(begin @ pose(rotation, np.zeros(3)), matrix, SIZE)[0] for rotation in (np.eye(3), turn)]
    return images, matrix, matrix @ turn.T @ np.linalg.inv(matrix)


def test_the_tracker_follows_most_corners_over_a_roll(turned):
    images, matrix, true = turned
    first, second = (gray_image(image) for image in images)
    corners = View.of(Keyframe(0, 0, images[0], matrix, True), 400).features.corners
    moved, valid = follow(first, second, corners)
    expected = mapped(corners, true)
    inside = (expected > 10).all(1) & (expected < np.array(SIZE) - 10).all(1)
    right = np.linalg.norm(moved - expected, axis=1) < 1.5
    assert (valid & right)[inside].mean() > 0.7
    assert right[valid].mean() > 0.95


def test_so_do_the_tracks_of_a_window(turned):
    images, matrix, true = turned
    keyframes = [Keyframe(i, i * 10**8, image, matrix, True) for i, image in enumerate(images)]
    views = [View.of(keyframe, Config().of(MultiviewConfig).corners) for keyframe in keyframes]
    tracks = track([view.features for view in views], keyframes).astype(np.float32)
    error = np.linalg.norm(mapped(tracks[:, 0], true) - tracks[:, 1], axis=1)
    assert len(tracks) > 150 and (error < 1.5).mean() > 0.9


def test_points_that_agree_on_nothing_have_no_homography():
    rng = np.random.default_rng(0)
    first, second = (rng.uniform(0, 400, (60, 2)).astype(np.float32) for _ in range(2))
    assert homography(first, second, SIZE[0]) is None
    assert homography(first[:5], first[:5], SIZE[0]) is None
