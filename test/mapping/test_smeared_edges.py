"""Smeared edges of depth are found; surfaces at a grazing angle, clean edges and noisy surfaces are kept."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vggt_ros.mapping.dense.smeared_edges import smeared
from vggt_ros.synthetic import laps, pinhole, room

SIZE, VIEW = (200, 150), pinhole(200, 150)


def _box_before_a_wall() -> NDArray[np.float32]:
    depth = np.full((150, 200), 4.0, np.float32)
    depth[40:110, 60:140] = 3.0
    return depth


def _plane(normal: tuple[float, float, float]) -> NDArray[np.float32]:
    """Return the depth of a plane through the point that is 2 before the camera, 0 where it is not in view."""
    x, y = np.meshgrid(np.arange(200), np.arange(150))
    rays = np.linalg.solve(VIEW, np.stack([x, y, np.ones_like(x)]).reshape(3, -1).astype(float))
    depth = (2.0 * normal[2] / (np.array(normal) @ rays)).reshape(150, 200)
    return np.where((depth > 0.3) & (depth < 4), depth, 0).astype(np.float32)


def test_smeared_edges_are_found_and_clean_ones_are_not() -> None:
    clean = _box_before_a_wall()
    assert not smeared(clean, VIEW).any()
    blurred = cv2.GaussianBlur(clean, (0, 0), 1.5)
    between = (blurred > 3.15) & (blurred < 3.85)
    found = smeared(blurred, VIEW)
    assert found[between].mean() > 0.9
    edges = cv2.dilate(between.astype(np.uint8), np.ones((7, 7))) > 0
    assert not found[~edges].any()


@pytest.mark.parametrize("degrees", [0, 30, 60, 75])
@pytest.mark.parametrize("axis", [0, 1])
def test_planes_at_a_grazing_angle_are_kept(degrees: int, axis: int) -> None:
    slope = np.sin(np.radians(degrees))
    normal = (slope, 0.0, np.cos(np.radians(degrees))) if axis == 0 else (0.0, slope, np.cos(np.radians(degrees)))
    depth = _plane(normal)
    inner = cv2.erode((depth > 0).astype(np.uint8), np.ones((19, 19)), borderValue=1) > 0
    assert inner.mean() > 0.3
    assert smeared(depth, VIEW)[inner].mean() < 0.01


def test_what_is_seen_along_its_surface_is_dropped() -> None:
    depth = _plane((np.sin(np.radians(82.5)), 0.0, np.cos(np.radians(82.5))))
    assert smeared(depth, VIEW)[:, 100].mean() > 0.9


def test_most_of_a_room_stays_with_noise_and_with_unknown_pixels() -> None:
    """What is found are narrow sides of boxes and ends of walls at a grazing angle; other keyframes see them better."""
    rng = np.random.default_rng(0)
    for matrix in laps(60)[:12:4]:
        depth = room().depth(matrix, VIEW, SIZE)
        noise = cv2.GaussianBlur(rng.standard_normal(depth.shape), (0, 0), 2.0)
        noisy = (depth * np.exp(0.01 * noise / noise.std())).astype(np.float32)
        assert smeared(depth.astype(np.float32), VIEW).mean() < 0.07
        assert smeared(noisy, VIEW).mean() < 0.09
        noisy[rng.random(depth.shape) < 0.2] = 0
        assert smeared(noisy, VIEW).mean() < 0.09
        assert not smeared(noisy, VIEW)[noisy == 0].any()
