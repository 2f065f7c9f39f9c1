"""Triangulation of points from the rays of two cameras."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

_MIN_ANGLE = np.radians(1.5)
"""Smallest angle between the two rays of a point that is triangulated, radians."""


def triangulate_midpoints(first: Array, first_rays: Array, second: Array,
                          second_rays: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the points (n, 3) nearest to pairs of rays (midpoint method), and which are well determined (n,).

    The first rays of the pairs start at the cameras `first` (n, 4, 4), the second rays at the camera `second` (4, 4).
    """
    a, b = (first[:, :3, :3] @ first_rays[..., None])[..., 0], second_rays @ second[:3, :3].T
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    baseline = second[:3, 3] - first[:, :3, 3]
    cosine = np.clip((a * b).sum(1), -1, 1)
    sine_squared = np.maximum(1 - cosine**2, 1e-12)
    along_a, along_b = (a * baseline).sum(1), (b * baseline).sum(1)
    length_a, length_b = (along_a - cosine * along_b) / sine_squared, (cosine * along_a - along_b) / sine_squared
    gap = np.linalg.norm(a * length_a[:, None] - b * length_b[:, None] - baseline, axis=1)
    points = first[:, :3, 3] + baseline / 2 + (a * length_a[:, None] + b * length_b[:, None]) / 2
    good = (np.arccos(cosine) > _MIN_ANGLE) & (length_a > 0) & (length_b > 0) & (gap < 0.02 * length_b)
    return points, good
