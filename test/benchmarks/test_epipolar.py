"""Distances from epipolar lines: exact geometry, and rendered images whose poses are known."""

from __future__ import annotations

import cv2
import numpy as np

from vggt_ros.benchmarks.accuracy.epipolar import MIN_MATCHES, epipolar_errors, match_neighbors, sampson

MATRIX = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])


def moved(x: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """Return `camera_world` of a camera at x that looks along z."""
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array([0, yaw, 0]))[0]
    pose[:3, 3] = pose[:3, :3] @ [-x, 0, 0]
    return pose


def project(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the pixels (n, 2) of points in the world."""
    seen = (points @ pose[:3, :3].T + pose[:3, 3]) @ MATRIX.T
    return seen[:, :2] / seen[:, 2:]


def test_exact_matches_lie_on_their_epipolar_lines_and_moved_ones_beside_them():
    points = np.random.default_rng(0).uniform([-2, -1, 3], [2, 1, 8], (50, 3))
    poses = moved(), moved(0.5)
    pixels = project(poses[0], points), project(poses[1], points)
    assert sampson(poses, (MATRIX, MATRIX), pixels).max() < 1e-9
    # The lines are horizontal: a pixel along them changes nothing, one across is shared by both images.
    along = pixels[0], pixels[1] + [1, 0]
    across = pixels[0], pixels[1] + [0, 1]
    assert sampson(poses, (MATRIX, MATRIX), along).max() < 1e-9
    np.testing.assert_allclose(sampson(poses, (MATRIX, MATRIX), across), np.sqrt(0.5), rtol=1e-9)


def test_wrong_rotations_are_told_from_right_ones_on_images():
    """A textured plane seen from two places; half a degree of roll is seen, and no match says nothing."""
    rng = np.random.default_rng(1)
    texture = cv2.GaussianBlur(rng.integers(0, 255, (960, 1280), np.uint8), (0, 0), 2.0)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    normal, depth = np.array([0.0, 0.3, 1.0]), 4.0
    poses = {"a": moved(), "b": moved(0.4, 0.05), "c": moved(0.8, 0.1)}
    base = np.array([[1, 0, -320], [0, 1, -240], [0, 0, 1.0]])
    images = {}
    for name, pose in poses.items():
        homography = MATRIX @ (pose[:3, :3] + np.outer(pose[:3, 3], normal) / depth) @ np.linalg.inv(MATRIX) @ base
        image = cv2.warpPerspective(texture, homography, (640, 480), flags=cv2.INTER_CUBIC)
        images[name] = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    wrong = dict(poses)
    roll = np.eye(4)
    roll[:3, :3] = cv2.Rodrigues(np.radians([0, 0, 0.5]))[0]
    wrong["b"] = roll @ poses["b"]
    assert {("a", "b"), ("a", "c"), ("b", "c")} == match_neighbors(images).keys()
    errors, matches = epipolar_errors(images, dict.fromkeys(images, MATRIX), {"right": poses, "wrong": wrong})
    assert matches > 3 * MIN_MATCHES
    assert errors["right"] < 0.1 < 0.3 < errors["wrong"]
    blank = {name: np.zeros_like(image) for name, image in images.items()}
    nothing, none = epipolar_errors(blank, dict.fromkeys(images, MATRIX), {"right": poses})
    assert none == 0 and np.isnan(nothing["right"])
